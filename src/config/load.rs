//! Loading: file, environment, flags, then the check of the whole.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::explain::{centrifugo, suggest};
use super::schema::{
    Entry, Field, Location, Mistakes, Node, Reader, Secrets, Value, join, leaves, yaml,
};
use super::{Options, check, explain, zeros};

/// Where options come from, from weakest to strongest.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The configuration file: JSON if its name ends with `.json`, YAML with `.yaml` or `.yml`,
    /// TOML otherwise.
    pub file: Option<PathBuf>,
    /// Environment variables by name. `RINGHOLD_` and the path in capitals with `_` for `.` sets a
    /// key: `RINGHOLD_CLIENT_TOKEN_HMAC_SECRET_KEY`. The prefix `CENTRIFUGO_` is heard too, where
    /// `RINGHOLD_` says nothing. Lists are separated by spaces; `channel.namespaces` is JSON, or
    /// names, and `…_CHANNEL_NAMESPACES_<NAME>_<OPTION>` sets an option of a namespace that there
    /// is.
    pub variables: Vec<(String, String)>,
    /// `key.path=value`, each as it stands behind a `--set`.
    pub sets: Vec<String>,
}

impl Sources {
    /// A file and this process's environment.
    pub fn of_process(file: Option<PathBuf>, sets: Vec<String>) -> Self {
        // A variable that is not UTF-8 cannot be one of ours.
        let utf8 = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self { file, variables: std::env::vars_os().filter_map(utf8).collect(), sets }
    }
}

/// Options that hold together.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What was said, over the defaults.
    pub options: Options,
    /// What the operator should know, such as keys and variables that mean nothing here.
    pub warnings: Vec<String>,
}

/// Why there are no options.
#[derive(Debug)]
pub enum LoadError {
    /// The file cannot be read.
    Unreadable(PathBuf, io::Error),
    /// What was said is wrong.
    Wrong(Mistakes),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(file, error) => write!(f, "{}: {error}", file.display()),
            Self::Wrong(mistakes) => mistakes.fmt(f),
        }
    }
}

impl std::error::Error for LoadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreadable(_, error) => Some(error),
            Self::Wrong(mistakes) => Some(mistakes),
        }
    }
}

impl Options {
    /// The variables that set keys under a prefix, with what holds as each would say it; secrets
    /// are masked.
    pub fn variables(&self, prefix: &str) -> Vec<(String, String)> {
        let mut found = Vec::new();
        variables_of(self, prefix, &mut found);
        found
    }

    /// Reads all sources and checks the result. An error holds every mistake that was found.
    /// Reads files: the configuration, and `jwks_file` where it names one.
    pub fn load(sources: &Sources) -> Result<Loaded, LoadError> {
        let text = match &sources.file {
            Some(file) => std::fs::read_to_string(file)
                .map_err(|error| LoadError::Unreadable(file.clone(), error))?,
            None => String::new(),
        };
        Self::from_text(sources, &text).map_err(LoadError::Wrong)
    }

    /// The same with the text of the file in hand.
    pub fn from_text(sources: &Sources, text: &str) -> Result<Loaded, Mistakes> {
        let mut options = Self::default();
        let mut reader = Reader::default();
        let file = sources.file.as_deref();
        if let Some(file) = file {
            read_file(&mut options, text, Format::of(file), &mut reader);
        }
        if let Some(folder) = file.and_then(Path::parent) {
            for token in
                [&mut options.client.plan.token, &mut options.client.plan.subscription_token.token]
            {
                if !token.jwks_file.is_empty() {
                    token.jwks_file = folder.join(&token.jwks_file).display().to_string();
                }
            }
        }
        if let Some(folder) = file.and_then(Path::parent) {
            options.http_server.tls.begin_at(folder);
            options.http_server.internal_tls.begin_at(folder);
            options.http_server.tls_autocert.begin_at(folder);
            options.engine.redis.tls.begin_at(folder);
            options.engine.redis.sentinel_tls.begin_at(folder);
            options.broker.nats.tls.begin_at(folder);
            options.grpc_api.tls.begin_at(folder);
            for consumer in &mut options.consumers {
                consumer.redis_stream.tls.begin_at(folder);
                consumer.redis_stream.sentinel_tls.begin_at(folder);
                consumer.postgresql.begin_at(folder);
            }
            let paths = [&mut options.log.file, &mut options.pid_file];
            let shutdown = &mut options.shutdown;
            let kept = [&mut shutdown.state_path, &mut shutdown.takeover_path];
            let kept = kept.into_iter().filter(|path| **path != "none");
            for path in paths.into_iter().chain(kept) {
                if !path.is_empty() {
                    *path = folder.join(&path).display().to_string();
                }
            }
        }
        for prefix in ["CENTRIFUGO_", "RINGHOLD_"] {
            read_variables(&mut options, prefix, &sources.variables, &mut reader);
        }
        for set in &sources.sets {
            read_set(&mut options, set, &mut reader);
        }
        expand(&mut options, &sources.variables, &mut reader);
        explain::explain(&mut reader);
        zeros::settle(&mut options);
        check::check(&options, &mut reader);
        let file = file.map_or(String::new(), |file| file.display().to_string());
        if reader.mistakes.is_empty() {
            let notes = Mistakes::new(file, reader.notes).to_string();
            let warnings = notes.lines().map(str::to_owned).chain(reader.warnings).collect();
            return Ok(Loaded { options, warnings });
        }
        Err(Mistakes::new(file, reader.mistakes))
    }
}

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Toml,
    Json,
    Yaml,
}

impl Format {
    fn of(file: &Path) -> Self {
        let extension = file.extension().map(|it| it.to_string_lossy().to_ascii_lowercase());
        match extension.as_deref() {
            Some("json") => Self::Json,
            Some("yaml" | "yml") => Self::Yaml,
            _ => Self::Toml,
        }
    }
}

/// The name by which a text without one is read: what it looks like.
pub fn stdin_name(text: &str) -> &'static str {
    if text.trim_start().starts_with('{') {
        return "stdin.json";
    }
    let is_toml = Node::from_toml(text).1.is_empty();
    let is_table = |node: &Node| matches!(node.value, Value::Table(_));
    let is_yaml = || yaml::read(text).is_ok_and(|node| is_table(&node));
    if !is_toml && is_yaml() { "stdin.yaml" } else { "stdin" }
}

fn read_file(options: &mut Options, text: &str, format: Format, reader: &mut Reader) {
    let read = match format {
        Format::Json => Node::from_json(text),
        Format::Yaml => yaml::read(text),
        Format::Toml => {
            let (node, errors) = Node::from_toml(text);
            for error in errors {
                reader.mistake(error.place, "", error.what);
            }
            Ok(node)
        }
    };
    match read {
        Ok(node) => options.read(&node, "", reader),
        Err(error) => reader.mistake(error.place, "", error.what),
    }
}

/// Goes through the keys there are and asks the environment for each, since a name in capitals does
/// not tell where its parts end.
fn read_variables(
    options: &mut Options,
    prefix: &str,
    variables: &[(String, String)],
    reader: &mut Reader,
) {
    let mut ours: Vec<_> =
        variables.iter().filter(|(name, _)| name.starts_with(prefix)).map(|v| (v, false)).collect();
    if ours.is_empty() {
        return;
    }
    let root = prefix.trim_end_matches('_');
    descend(options, root, "", &mut ours, reader);
    let mut theirs = Vec::new();
    let mut known = Vec::new();
    leaves(options, "", &mut known);
    let known: Vec<_> = known.iter().map(|path| variable(root, path)).collect();
    for ((name, value), _) in ours.iter().filter(|(_, heard)| !heard) {
        if is_surroundings(&name[prefix.len()..]) {
            continue;
        }
        if let Some(key) = centrifugo::key_of_variable(&name[prefix.len()..]) {
            let place = Location::Variable(name.clone());
            put(&mut theirs, key, &Node { value: Value::Raw(value.clone()), place });
            continue;
        }
        let near = suggest::nearest(name, &known);
        let hint = near.map_or(String::new(), |near| format!(", did you mean {near}?"));
        reader.warnings.push(format!("environment variable {name} sets nothing{hint}"));
    }
    // Together, since one switches others on.
    options.read(&Node { value: Value::Table(theirs), place: Location::Unknown }, "", reader);
}

/// Puts a value where its path leads, with the tables that are on the way.
fn put(table: &mut Vec<Entry>, path: &str, node: &Node) {
    let place = &node.place;
    let (key, rest) = path.split_once('.').map_or((path, None), |(key, rest)| (key, Some(rest)));
    let Some(rest) = rest else {
        return table.push(Entry { key: key.to_owned(), place: place.clone(), node: node.clone() });
    };
    let at = table.iter().position(|entry| entry.key == key).unwrap_or_else(|| {
        let node = Node { value: Value::Table(Vec::new()), place: place.clone() };
        table.push(Entry { key: key.to_owned(), place: place.clone(), node });
        table.len() - 1
    });
    if let Value::Table(entries) = &mut table[at].node.value {
        put(entries, rest, node);
    }
}

type Variables<'a> = Vec<(&'a (String, String), bool)>;

fn descend(
    field: &mut dyn Field,
    name: &str,
    path: &str,
    variables: &mut Variables<'_>,
    reader: &mut Reader,
) {
    if field.takes_text() {
        for ((variable, value), heard) in variables.iter_mut() {
            if variable == name {
                *heard = true;
                let place = Location::Variable(variable.clone());
                reader.found(path, &place);
                field.read(&Node { value: Value::Raw(value.clone()), place }, path, reader);
            }
        }
    }
    let is_list = field.is_list();
    let keys: Vec<_> = field.children().into_iter().map(|(key, _)| key).collect();
    for (index, key) in keys.iter().enumerate() {
        let name = variable(name, key);
        let path = if is_list { format!("{path}[{index}]") } else { join(path, key) };
        // Two namespaces of one name share it; the check tells.
        if let Some(child) = field.child(key) {
            descend(child, &name, &path, variables, reader);
        }
    }
}

fn variables_of(field: &dyn Field, name: &str, found: &mut Vec<(String, String)>) {
    if field.takes_text() {
        let value = match field.show(Secrets::Masked) {
            toml::Value::String(text) => text,
            toml::Value::Array(list) if list.is_empty() => String::new(),
            // As JSON, but for what every value writes as itself.
            other => serde_json::to_string(&other).unwrap_or_default(),
        };
        found.push((name.to_owned(), value));
    }
    for (key, child) in field.children() {
        variables_of(child, &variable(name, &key), found);
    }
}

fn variable(root: &str, path: &str) -> String {
    format!("{root}_{}", path.to_ascii_uppercase().replace(['.', '-'], "_"))
}

/// Puts variables into the headers that name them: `${CENTRIFUGO_VAR_NAME}`.
fn expand(options: &mut Options, variables: &[(String, String)], reader: &mut Reader) {
    for (path, proxy) in options.backends_mut() {
        let pairs = [
            (format!("{path}.http.static_headers"), &mut proxy.http.static_headers),
            (format!("{path}.grpc.static_metadata"), &mut proxy.grpc.static_metadata),
        ];
        let values = pairs
            .into_iter()
            .flat_map(|(key, pairs)| pairs.values_mut().map(move |value| (key.clone(), value)));
        for (key, value) in values {
            let mut whole = String::new();
            let mut rest = value.as_str();
            while let Some((name, begin, end)) = next_variable(rest) {
                let Some((_, set)) = variables.iter().find(|(known, _)| known == name) else {
                    let what = format!("there is no environment variable {name}");
                    reader.mistake(reader.place(&key), &key, what);
                    break;
                };
                whole += &rest[..begin];
                whole += set;
                rest = &rest[end..];
            }
            whole += rest;
            *value = whole;
        }
    }
}

/// The first variable that a text names, and from where to where it does.
fn next_variable(text: &str) -> Option<(&str, usize, usize)> {
    text.match_indices("${").find_map(|(begin, _)| {
        let name = &text[begin + 2..];
        let name = &name[..name.find('}')?];
        let ours = ["CENTRIFUGO_VAR_", "RINGHOLD_VAR_"].iter().any(|it| name.starts_with(it));
        ours.then_some((name, begin, begin + 3 + name.len()))
    })
}

/// Variables that are there for other reasons: the program's own flags, those that headers
/// name, and what Kubernetes tells about a service of that name.
fn is_surroundings(rest: &str) -> bool {
    ["LOG", "CONFIG", "HEALTH_URL", "IO", "PORT"].contains(&rest)
        || rest.starts_with("SERVICE_")
        || rest.starts_with("VAR_")
        || rest.starts_with("PORT_")
}

pub(crate) fn read_set(options: &mut Options, set: &str, reader: &mut Reader) {
    let Some((path, value)) = set.split_once('=') else {
        return reader.mistake(Location::Flag, set, "must be key=value, as client.insecure=true");
    };
    let mut field: &mut dyn Field = options;
    let mut at = String::new();
    let mut rest = path;
    while !rest.is_empty() {
        let children = field.children();
        let keys: Vec<_> = children.into_iter().map(|(key, _)| key).collect();
        let is_list = field.is_list();
        // The longest key, since the name of a namespace may hold a dot.
        let fits = |key: &&String| {
            rest.strip_prefix(key.as_str()).is_some_and(|r| r.is_empty() || r.starts_with('.'))
        };
        let best = keys.iter().enumerate().filter(|(_, key)| fits(key));
        let Some((index, key)) = best.max_by_key(|(_, key)| key.len()) else {
            let first = rest.split('.').next().unwrap_or(rest);
            // The rest of the path may be one of Centrifugo's.
            let whole = join(&at, rest);
            let said = if centrifugo::is_key(&whole) { whole } else { join(&at, first) };
            return reader.unknown(Location::Flag, &said, keys, flag(value));
        };
        at = if is_list { format!("{at}[{index}]") } else { join(&at, key) };
        rest = rest[key.len()..].trim_start_matches('.');
        match field.child(key) {
            Some(child) => field = child,
            None => {
                return reader.unknown(Location::Flag, path, keys, flag(value));
            }
        }
    }
    if !field.takes_text() {
        return reader.mistake(Location::Flag, path, "is a table; name one of its keys");
    }
    reader.found(&at, &Location::Flag);
    field.read(&flag(value), &at, reader);
}

fn flag(value: &str) -> Node {
    Node { value: Value::Raw(value.to_owned()), place: Location::Flag }
}
