//! Filters that are refused, and what the others let through.

use proptest::prelude::*;

use super::*;

fn leaf(key: &str, cmp: &str, val: &str) -> FilterNode {
    FilterNode { key: key.into(), cmp: cmp.into(), val: val.into(), ..FilterNode::default() }
}

fn set(key: &str, cmp: &str, vals: &[&str]) -> FilterNode {
    let vals = vals.iter().map(|&val| val.to_owned()).collect();
    FilterNode { vals, ..leaf(key, cmp, "") }
}

fn branch(op: &str, nodes: Vec<FilterNode>) -> FilterNode {
    FilterNode { op: op.into(), nodes, ..FilterNode::default() }
}

fn tags(tags: &[(&str, &str)]) -> BTreeMap<String, String> {
    tags.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn matches(node: &FilterNode, with: &[(&str, &str)]) -> bool {
    Filter::new(node).unwrap().matches(&tags(with))
}

#[test]
fn comparisons() {
    // Comparison, value, a tag that it lets through, one that it does not, and what it does where
    // there is no tag.
    let table = [
        ("eq", "a", "a", "b", false),
        ("neq", "a", "b", "a", true),
        ("sw", "ab", "abc", "cab", false),
        ("ew", "ab", "cab", "abc", false),
        ("ct", "ab", "xabx", "axb", false),
        ("lt", "10", "9.99", "10", false),
        ("lte", "10", "10.0", "10.01", false),
        ("gt", "-1", "-0.5", "-1", false),
        ("gte", "9", "10", "8", false),
        ("gte", "9", "9", "nine", false),
        ("lt", "9", "8", "", false),
    ];
    for (cmp, val, yes, no, absent) in table {
        let node = leaf("k", cmp, val);
        assert!(matches(&node, &[("k", yes), ("other", no)]), "{cmp} {val}: {yes}");
        assert!(!matches(&node, &[("k", no), ("other", yes)]), "{cmp} {val}: {no}");
        assert_eq!(matches(&node, &[("other", yes)]), absent, "{cmp} {val}: absent");
    }
    // What is no number compares with nothing.
    for cmp in ["lt", "lte", "gt", "gte"] {
        assert!(!matches(&leaf("k", cmp, "ten"), &[("k", "10")]), "{cmp}");
    }
}

#[test]
fn sets_and_presence() {
    let within = set("k", "in", &["a", "b"]);
    let without = set("k", "nin", &["a", "b"]);
    for (tag, inside) in [("a", true), ("b", true), ("c", false)] {
        assert_eq!(matches(&within, &[("k", tag)]), inside);
        assert_eq!(matches(&without, &[("k", tag)]), !inside);
    }
    assert!(!matches(&within, &[]) && matches(&without, &[]));
    assert!(matches(&set("k", "in", &[""]), &[]) && !matches(&set("k", "nin", &[""]), &[]));
    assert!(matches(&leaf("k", "ex", ""), &[("k", "")]) && !matches(&leaf("k", "ex", ""), &[]));
    assert!(!matches(&leaf("k", "nex", ""), &[("k", "")]) && matches(&leaf("k", "nex", ""), &[]));
}

#[test]
fn branches() {
    let (a, b) = (leaf("a", "eq", "1"), leaf("b", "eq", "1"));
    let both = branch("and", vec![a.clone(), b.clone()]);
    let either = branch("or", vec![a.clone(), b.clone()]);
    let neither = branch("not", vec![either.clone()]);
    for (with, of_both, of_either) in [
        (&[("a", "1"), ("b", "1")][..], true, true),
        (&[("a", "1"), ("b", "2")], false, true),
        (&[("b", "1")], false, true),
        (&[], false, false),
    ] {
        assert_eq!(matches(&both, with), of_both, "{with:?}");
        assert_eq!(matches(&either, with), of_either, "{with:?}");
        assert_eq!(matches(&neither, with), !of_either, "{with:?}");
    }
}

#[test]
fn errors_have_names() {
    let with_val = FilterNode { val: "x".into(), ..set("k", "in", &["a"]) };
    let with_vals = FilterNode { vals: vec!["x".into()], ..leaf("k", "eq", "a") };
    let ok = || leaf("k", "ex", "");
    let nested = |depth| (1..depth).fold(ok(), |node, _| branch("not", vec![node]));
    let wide = |nodes| branch("or", vec![ok(); nodes - 1]);
    let values = |values| branch("or", vec![set("k", "in", &vec!["v"; values / 2]); 2]);
    let table = [
        (leaf("k", "", "a"), Some(FilterError::UnknownComparison)),
        (leaf("k", "like", "a"), Some(FilterError::UnknownComparison)),
        (leaf("", "eq", "a"), Some(FilterError::NoKey)),
        (leaf("", "ex", ""), None),
        (leaf("k", "eq", ""), Some(FilterError::NoValue)),
        (leaf("k", "in", ""), Some(FilterError::NoValue)),
        (leaf("k", "ex", "a"), Some(FilterError::UnusedValue)),
        (set("k", "nex", &["a"]), Some(FilterError::UnusedValue)),
        (with_val, Some(FilterError::UnusedValue)),
        (with_vals, Some(FilterError::UnusedValue)),
        (branch("xor", vec![ok()]), Some(FilterError::UnknownOp)),
        (branch("and", vec![]), Some(FilterError::WrongChildren)),
        (branch("or", vec![]), Some(FilterError::WrongChildren)),
        (branch("not", vec![]), Some(FilterError::WrongChildren)),
        (branch("not", vec![ok(), ok()]), Some(FilterError::WrongChildren)),
        (nested(DEPTH_MAX), None),
        (nested(DEPTH_MAX + 1), Some(FilterError::TooDeep)),
        (wide(NODES_MAX), None),
        (wide(NODES_MAX + 1), Some(FilterError::TooManyNodes)),
        (values(VALUES_MAX), None),
        (values(VALUES_MAX + 2), Some(FilterError::TooManyValues)),
    ];
    for (node, error) in table {
        assert_eq!(Filter::new(&node).err(), error, "{node:?}");
    }
}

fn json(node: &FilterNode) -> String {
    let text = |text: &str| serde_json::to_string(text).unwrap();
    let list = |items: Vec<String>| format!("[{}]", items.join(","));
    let FilterNode { op, key, cmp, val, vals, nodes } = node;
    let [op, key, cmp, val] = [op, key, cmp, val].map(|it| text(it));
    let vals = list(vals.iter().map(|val| text(val)).collect());
    let nodes = list(nodes.iter().map(json).collect());
    format!(r#"{{"op":{op},"key":{key},"cmp":{cmp},"val":{val},"vals":{vals},"nodes":{nodes}}}"#)
}

fn decoded(text: &str) -> Result<Filter, FilterError> {
    Filter::decode(Encoding::Json, text.as_bytes())
}

#[test]
fn what_is_no_filter_is_malformed() {
    for text in ["", "{", "[]", "1", "{} {}", r#"{"vals":{}}"#, r#"{"nodes":[1]}"#, r#"{"op":1}"#] {
        assert_eq!(decoded(text), Err(FilterError::Malformed), "{text}");
    }
    for bytes in [&b"\x0a"[..], b"\x0a\x01\xff", b"\x08\x01", b"\x32\x01\x0a", b"\x00"] {
        let filter = Filter::decode(Encoding::Protobuf, bytes);
        assert_eq!(filter, Err(FilterError::Malformed), "{bytes:?}");
    }
    // `null` is nothing, and fields of later versions are passed over.
    let text = r#"{"op":null,"vals":null,"nodes":null,"new":{"a":[1]},"key":"k","cmp":"ex"}"#;
    assert_eq!(decoded(text), Filter::new(&leaf("k", "ex", "")));
    let bytes = b"\x12\x01k\x1a\x02ex\x3a\x01x\x40\x07";
    assert_eq!(Filter::decode(Encoding::Protobuf, bytes), Filter::new(&leaf("k", "ex", "")));
}

#[test]
fn a_filter_takes_no_more_than_it_has_bytes() {
    let long = leaf("k", "eq", &"v".repeat(BYTES_MAX));
    assert_eq!(Filter::new(&long), Err(FilterError::TooLong));
    let text = |bytes: usize| format!(r#"{{"key":"k","cmp":"eq","val":"{:v<bytes$}"}}"#, "");
    let rest = BYTES_MAX - text(0).len();
    let filter = decoded(&text(rest)).unwrap();
    assert!(filter.0.len() <= BYTES_MAX && filter.cost() < BYTES_MAX + 1024);
    assert_eq!(decoded(&text(rest + 1)), Err(FilterError::TooLong));
    // Compiled, nodes and values are hardly more than their text.
    let many = branch("or", vec![set("key", "in", &["value"; 8]); NODES_MAX - 1]);
    assert!(json(&many).len() > BYTES_MAX);
    assert!(Filter::new(&many).is_err(), "too many values");
    let many = branch("or", vec![leaf("k", "neq", "v"); NODES_MAX - 1]);
    assert!(Filter::new(&many).unwrap().0.len() <= 8 * NODES_MAX);
}

#[test]
fn nodes_are_counted_before_they_are_made() {
    let empty =
        |nodes: usize| format!(r#"{{"op":"or","nodes":[{}]}}"#, vec!["{}"; nodes].join(","));
    assert_eq!(decoded(&empty(NODES_MAX)), Err(FilterError::TooManyNodes));
    assert_eq!(decoded(&empty(NODES_MAX - 1)), Err(FilterError::UnknownComparison));
    let values = |n: usize| format!(r#"{{"vals":[{}]}}"#, vec!["\"\""; n].join(","));
    assert_eq!(decoded(&values(VALUES_MAX + 1)), Err(FilterError::TooManyValues));
    let deep = |levels: usize| {
        format!("{}{}", r#"{"nodes":["#.repeat(levels - 1), "]}".repeat(levels - 1))
            .replace("[]", "[{}]")
    };
    assert_eq!(decoded(&deep(DEPTH_MAX + 1)), Err(FilterError::TooDeep));
    assert_eq!(decoded(&deep(DEPTH_MAX)), Err(FilterError::UnknownComparison));
    let bytes = [&[0x32, 0x00][..]; NODES_MAX].concat();
    assert_eq!(Filter::decode(Encoding::Protobuf, &bytes), Err(FilterError::TooManyNodes));
    let bytes = [&[0x2a, 0x00][..]; VALUES_MAX + 1].concat();
    assert_eq!(Filter::decode(Encoding::Protobuf, &bytes), Err(FilterError::TooManyValues));
    let deep = (0..DEPTH_MAX)
        .fold(Vec::new(), |within: Vec<u8>, _| [&[0x32, within.len() as u8][..], &within].concat());
    assert_eq!(Filter::decode(Encoding::Protobuf, &deep), Err(FilterError::TooDeep));
}

fn any_node() -> impl Strategy<Value = FilterNode> {
    let word = || prop::sample::select(vec!["", "a", "b", "1", "2.5", "-3"]).prop_map(String::from);
    let cmps = ["eq", "neq", "in", "nin", "ex", "nex", "sw", "ew", "ct", "lt", "lte", "gt", "gte"];
    let cmp = prop::sample::select(cmps.to_vec()).prop_map(String::from);
    let vals = prop::collection::vec(word(), 0..3);
    let leaf = (word(), cmp, word(), vals).prop_map(|(key, cmp, val, vals)| FilterNode {
        key,
        cmp,
        val,
        vals,
        ..FilterNode::default()
    });
    leaf.prop_recursive(4, 24, 4, |inner| {
        let op = prop::sample::select(vec!["and", "or", "not", "nor"]);
        (op, prop::collection::vec(inner, 0..4)).prop_map(|(op, nodes)| branch(op, nodes))
    })
}

proptest! {
    /// Whatever comes, it is refused or it matches; `not` is the opposite, and `and` with `or` of
    /// itself changes nothing.
    #[test]
    fn logic_holds(node in any_node(), with in any_tags()) {
        if let Ok(filter) = Filter::new(&node) {
            let matched = filter.matches(&with);
            let not = Filter::new(&branch("not", vec![node.clone()])).unwrap();
            let same = branch("and", vec![branch("or", vec![node.clone(), node.clone()])]);
            prop_assert_eq!(not.matches(&with), !matched);
            prop_assert_eq!(Filter::new(&same).unwrap().matches(&with), matched);
        }
    }
}

proptest! {
    /// Both encodings say what the tree says.
    #[test]
    fn filters_are_decoded_as_they_were_meant(node in any_node()) {
        let filter = Filter::new(&node);
        prop_assert_eq!(&decoded(&json(&node)), &filter);
        let bytes = prost::Message::encode_to_vec(&node);
        prop_assert_eq!(&Filter::decode(Encoding::Protobuf, &bytes), &filter);
    }
}

fn any_tags() -> impl Strategy<Value = BTreeMap<String, String>> {
    prop::collection::btree_map("[ab]", "[ab12]|2.5|-3", 0..3)
}
