//! Where keys are fetched: one address, or a template with names of groups of `issuer_regex` and
//! `audience_regex`, as in `https://id.example.org/realms/{{realm}}/keys`.
//!
//! The invariant: each address follows from the configuration alone. A token chooses among them,
//! and never leads to another.

use regex_syntax::hir::{Class, Hir, HirKind};

use crate::gateway::plan::Token;

/// The addresses of key sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// What is before the first name.
    first: String,
    /// Each name, and what follows it.
    rest: Vec<(String, String)>,
    urls: Vec<String>,
}

impl Endpoints {
    /// Reads `jwks_public_endpoint`. The error says what is wrong with it.
    pub fn new(options: &Token) -> Result<Self, String> {
        let (first, rest) = pieces(&options.jwks_public_endpoint)?;
        let mut urls = vec![(first.clone(), Vec::<(&str, String)>::new())];
        for (name, after) in &rest {
            let values = values(name, options)?;
            let mut longer = Vec::new();
            for (url, known) in &urls {
                // A name that comes again has the value that it has.
                let again = known.iter().find(|(known, _)| known == name);
                let each = again.map_or(&values[..], |(_, value)| std::slice::from_ref(value));
                for value in each {
                    let mut known = known.clone();
                    known.push((name.as_str(), value.clone()));
                    longer.push((format!("{url}{value}{after}"), known));
                }
            }
            if longer.len() > ENDPOINTS_MAX {
                return Err(format!("stands for more than {ENDPOINTS_MAX} addresses"));
            }
            urls = longer;
        }
        let mut urls: Vec<_> = urls.into_iter().map(|(url, _)| url).collect();
        urls.sort_unstable();
        urls.dedup();
        Ok(Self { first, rest, urls })
    }

    /// All of them.
    pub fn urls(&self) -> &[String] {
        &self.urls
    }

    /// Whether a token chooses.
    pub(super) fn is_template(&self) -> bool {
        !self.rest.is_empty()
    }

    /// The number of the address for these values of groups.
    pub(super) fn find<'v>(&self, value: impl Fn(&str) -> Option<&'v str>) -> Option<usize> {
        let mut url = self.first.clone();
        for (name, after) in &self.rest {
            url += value(name)?;
            url += after;
        }
        self.urls.iter().position(|known| *known == url)
    }
}

/// Whether an endpoint is a template.
pub(crate) fn is_template(endpoint: &str) -> bool {
    endpoint.contains("{{")
}

/// The text before the first name, and names with the text behind each.
fn pieces(template: &str) -> Result<(String, Vec<(String, String)>), String> {
    let mut parts = template.split("{{");
    let first = parts.next().unwrap_or_default().to_owned();
    let rest = parts.map(|part| {
        let (name, after) = part.split_once("}}").ok_or("has {{ without }}")?;
        Ok((name.to_owned(), after.to_owned()))
    });
    Ok((first, rest.collect::<Result<_, String>>()?))
}

/// All that a group can match.
fn values(name: &str, options: &Token) -> Result<Vec<String>, String> {
    // As a token's are read: the audience's group counts where both have one.
    for pattern in [&options.audience_regex, &options.issuer_regex] {
        // One that cannot be read is told of elsewhere.
        let Ok(parsed) = regex_syntax::parse(pattern) else { continue };
        if let Some(group) = group(&parsed, name) {
            return texts(group).ok_or_else(|| {
                format!(
                    "takes {{{{{name}}}}} from a group that must be a list of at most \
                     {ENDPOINTS_MAX} values, (?P<{name}>one|two): a token must not choose freely \
                     where its keys are"
                )
            });
        }
    }
    Err(format!("names {{{{{name}}}}}, which is no group of issuer_regex or audience_regex"))
}

/// The group of that name in a pattern.
fn group<'h>(pattern: &'h Hir, name: &str) -> Option<&'h Hir> {
    match pattern.kind() {
        HirKind::Capture(capture) if capture.name.as_deref() == Some(name) => Some(&capture.sub),
        HirKind::Capture(capture) => group(&capture.sub, name),
        HirKind::Repetition(repetition) => group(&repetition.sub, name),
        HirKind::Concat(parts) | HirKind::Alternation(parts) => {
            parts.iter().find_map(|part| group(part, name))
        }
        HirKind::Empty | HirKind::Literal(_) | HirKind::Class(_) | HirKind::Look(_) => None,
    }
}

/// All that a pattern matches; `None` where that is no short list.
fn texts(pattern: &Hir) -> Option<Vec<String>> {
    let texts = match pattern.kind() {
        HirKind::Empty => vec![String::new()],
        HirKind::Literal(literal) => vec![String::from_utf8(literal.0.to_vec()).ok()?],
        HirKind::Class(Class::Unicode(class)) => {
            let ranges = class.iter().map(|range| range.start()..=range.end());
            ranges.flatten().take(ENDPOINTS_MAX + 1).map(String::from).collect()
        }
        HirKind::Class(Class::Bytes(_)) | HirKind::Look(_) | HirKind::Repetition(_) => return None,
        HirKind::Capture(capture) => texts(&capture.sub)?,
        HirKind::Alternation(parts) => {
            let mut all = Vec::new();
            for part in parts {
                all.extend(texts(part)?);
            }
            all
        }
        HirKind::Concat(parts) => {
            let mut all = vec![String::new()];
            for part in parts {
                let ends = texts(part)?;
                if all.len() * ends.len() > ENDPOINTS_MAX {
                    return None;
                }
                let longer = |begin: &String| {
                    ends.iter().map(|end| format!("{begin}{end}")).collect::<Vec<_>>()
                };
                all = all.iter().flat_map(longer).collect();
            }
            all
        }
    };
    (texts.len() <= ENDPOINTS_MAX).then_some(texts)
}

/// Each is fetched by itself, and its keys are held.
const ENDPOINTS_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(url: &str, issuer: &str, audience: &str) -> Result<Endpoints, String> {
        Endpoints::new(&Token {
            jwks_public_endpoint: url.to_owned(),
            issuer_regex: issuer.to_owned(),
            audience_regex: audience.to_owned(),
            ..Token::default()
        })
    }

    #[test]
    fn a_template_is_as_many_addresses_as_its_groups_have_values() {
        let one = endpoints("https://a/keys", "", "").unwrap();
        assert_eq!((one.urls(), one.is_template()), (&["https://a/keys".to_owned()][..], false));
        assert_eq!(one.find(|_| None), Some(0));

        let issuer = "^https://id/realms/(?P<realm>test1|test2|other)$";
        let audience = "^(?P<kind>web|app)$";
        let many = endpoints("https://{{kind}}.a/{{realm}}/keys/{{realm}}", issuer, audience);
        let many = many.unwrap();
        let expected = [
            "https://app.a/other/keys/other",
            "https://app.a/test1/keys/test1",
            "https://app.a/test2/keys/test2",
            "https://web.a/other/keys/other",
            "https://web.a/test1/keys/test1",
            "https://web.a/test2/keys/test2",
        ];
        assert_eq!(many.urls(), expected);
        let find = |kind: &'static str, realm: &'static str| {
            many.find(|name| Some(if name == "kind" { kind } else { realm }))
        };
        assert_eq!((find("web", "other"), find("app", "test2")), (Some(3), Some(2)));
        // A token leads nowhere else.
        assert_eq!((find("evil", "other"), many.find(|_| None)), (None, None));
        assert_eq!(find("app", "other/keys/other"), None);
    }

    #[test]
    fn lists_of_letters_are_as_short() {
        let of = |group: &str| {
            let all = endpoints("https://{{it}}", &format!("^(?P<it>{group})$"), "");
            all.map(|all| all.urls().len())
        };
        assert_eq!(of("[a-d][a-h]"), Ok(32));
        assert!(of("[a-c][a-k]").is_err());
    }

    #[test]
    fn a_token_must_not_choose_freely() {
        let of = |issuer: &str| endpoints("https://a/{{x}}/keys", issuer, "");
        for free in
            ["(?P<x>.+)", "(?P<x>[a-z]+)", "(?P<x>a*)", r"(?P<x>\w)", "(?P<x>a?|b)", "(?P<x>a|^b)"]
        {
            assert!(of(free).unwrap_err().contains("must be a list"), "{free}");
        }
        for missing in ["", "https://b", "(?P<y>a|b)", "(a|b)", "("] {
            assert!(of(missing).unwrap_err().contains("no group"), "{missing}");
        }
        for (fine, count) in [
            ("(?P<x>a)", 1),
            ("(?P<x>(?:a|b)-(c|d))", 4),
            ("(?:(?P<x>a|b))?", 2),
            ("(?P<x>[a-d]|)", 5),
        ] {
            assert_eq!(of(fine).map(|it| it.urls().len()), Ok(count), "{fine}");
        }
        assert!(of("(?P<x>[a-d][a-d][a-d])").is_err(), "64 are too many");
        let two = endpoints("https://a/{{x}}/{{y}}", "(?P<x>[a-h])", "(?P<y>[a-h])");
        assert!(two.unwrap_err().contains("more than 32"));
        assert!(endpoints("https://a/{{x", "(?P<x>a)", "").unwrap_err().contains("{{ without }}"));
    }
}
