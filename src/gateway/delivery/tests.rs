//! What each kind of subscriber gets of a delivery.

use super::*;

const BOTH: [Encoding; 2] = [Encoding::Json, Encoding::Protobuf];

fn delivery(data: &str, base: Option<&str>) -> Delivery {
    let item = Item { offset: 3, ..item(data.as_bytes()) };
    let base = base.map(|base| Bytes::copy_from_slice(base.as_bytes()));
    let happening = Happening::Published { item: Arc::new(item), seq: 1, base };
    Delivery::new(ChannelId(7), "news".into(), happening)
}

fn item(data: &[u8]) -> Item {
    let data = Bytes::copy_from_slice(data);
    Item::new(Duration::ZERO, data, None, BTreeMap::new(), 0)
}

fn text(delivery: &Delivery, compact: bool, form: Form) -> String {
    let frame = delivery.frame(Variant { format: Format::WebSocketJson, compact, form }).unwrap();
    assert_eq!(frame.kind(), crate::Kind::Text);
    String::from_utf8(frame.payload().to_vec()).unwrap()
}

#[test]
fn each_variant_is_encoded_once_and_says_what_it_should() {
    let long = "lorem ipsum ".repeat(9);
    let (old, new) = (format!(r#"{{"n":1,"t":"{long}"}}"#), format!(r#"{{"n":2,"t":"{long}"}}"#));
    let delivery = delivery(&new, Some(&old));
    let plain = text(&delivery, false, Form::Plain);
    assert_eq!(
        plain,
        format!(r#"{{"push":{{"channel":"news","pub":{{"data":{new},"offset":3}}}}}}"#)
    );
    assert!(text(&delivery, true, Form::Plain).starts_with(r#"{"push":{"id":7,"pub":"#));
    let whole: serde_json::Value =
        serde_json::from_str(&text(&delivery, false, Form::Whole)).unwrap();
    assert_eq!(whole["push"]["pub"]["data"], new.as_str());
    let patch: serde_json::Value =
        serde_json::from_str(&text(&delivery, false, Form::Patch)).unwrap();
    assert_eq!(patch["push"]["pub"]["delta"], true);
    let patch = patch["push"]["pub"]["data"].as_str().unwrap().as_bytes().to_vec();
    assert_eq!(delta::apply(old.as_bytes(), &patch, 1 << 20).unwrap(), new.as_bytes());

    for encoding in BOTH {
        for compact in [false, true] {
            for form in [Form::Plain, Form::Whole, Form::Patch] {
                let variant = Variant { format: encoding.into(), compact, form };
                let (one, two) = (delivery.frame(variant), delivery.frame(variant));
                assert!(std::ptr::eq(one.unwrap(), two.unwrap()));
            }
        }
    }
}

#[test]
fn variants_with_the_same_bytes_share_a_frame() {
    let delivery = delivery("1", Some("2"));
    for encoding in BOTH {
        let frame = |form| {
            delivery.frame(Variant { format: encoding.into(), compact: false, form }).unwrap()
        };
        assert!(std::ptr::eq(frame(Form::Whole), frame(Form::Patch)), "the patch is longer");
        let protobuf = encoding == Encoding::Protobuf;
        assert_eq!(std::ptr::eq(frame(Form::Plain), frame(Form::Whole)), protobuf);
    }
}

#[test]
fn what_is_not_json_goes_to_protobuf_only() {
    let delivery = delivery("no json", None);
    for form in [Form::Plain, Form::Whole, Form::Patch] {
        let frame = |encoding: Encoding| {
            delivery.frame(Variant { format: encoding.into(), compact: false, form })
        };
        assert!(frame(Encoding::Json).is_none());
        assert!(frame(Encoding::Protobuf).is_some());
    }
}

#[test]
fn a_patch_that_would_cut_a_character_is_none_or_text() {
    let filler = "x".repeat(200);
    // The same first byte, another second one.
    let (old, new) = (format!("\"{filler}é{filler}\""), format!("\"{filler}ê{filler}\""));
    let delivery = delivery(&new, Some(&old));
    let push: serde_json::Value =
        serde_json::from_str(&text(&delivery, false, Form::Patch)).unwrap();
    let publication = &push["push"]["pub"];
    let data = publication["data"].as_str().unwrap();
    match publication["delta"] == true {
        true => {
            let patched = delta::apply(old.as_bytes(), data.as_bytes(), 1 << 20).unwrap();
            assert_eq!(patched, new.as_bytes());
        }
        false => assert_eq!(data, new),
    }
}

#[test]
fn joins_and_leaves_name_who_and_have_one_form() {
    let who = Who { user: "ann".into(), ..Who::default() };
    let join = Happening::Join(ClientId::new(9), who);
    let delivery = Delivery::new(ChannelId(7), "news".into(), join);
    let client = "00000000-0000-0000-0000-000000000009";
    let info = format!(r#"{{"info":{{"user":"ann","client":"{client}"}}}}"#);
    let named = format!(r#"{{"push":{{"channel":"news","join":{info}}}}}"#);
    assert_eq!(text(&delivery, false, Form::Plain), named);
    assert_eq!(
        text(&delivery, true, Form::Plain),
        format!(r#"{{"push":{{"id":7,"join":{info}}}}}"#)
    );
    let frame = |form| {
        delivery.frame(Variant { format: Format::WebSocketJson, compact: false, form }).unwrap()
    };
    assert!(std::ptr::eq(frame(Form::Plain), frame(Form::Patch)));
}

#[test]
fn a_recovered_chain_begins_whole_and_goes_on_in_patches() {
    let texts: Vec<_> =
        (0..3).map(|n| format!(r#"{{"n":{n},"t":"{}"}}"#, "lorem ipsum ".repeat(9))).collect();
    let items: Vec<_> = texts
        .iter()
        .map(|text| match delivery(text, None).happening {
            Happening::Published { item, .. } => item,
            _ => unreachable!("it is a publication"),
        })
        .collect();
    for encoding in BOTH {
        let chain = chain(encoding, &items).unwrap();
        let mut base = Vec::new();
        for (n, publication) in chain.iter().enumerate() {
            assert_eq!(publication.delta, n > 0);
            let data = publication.data.to_vec();
            assert!(encoding == Encoding::Protobuf || std::str::from_utf8(&data).is_ok());
            base = if n == 0 { data } else { delta::apply(&base, &data, 1 << 20).unwrap() };
            assert_eq!(base, texts[n].as_bytes());
        }
    }
    let binary = Arc::new(item(b"\xff"));
    assert!(chain(Encoding::Json, std::slice::from_ref(&binary)).is_none());
    assert!(chain(Encoding::Protobuf, &[binary]).is_some());
}

#[test]
fn each_format_has_a_frame_of_its_own_and_all_of_one_share_it() {
    let delivery = delivery("{\"a\":1}", None);
    for format in Format::ALL {
        let variant = Variant { format, compact: false, form: Form::Plain };
        let frame = delivery.frame(variant).unwrap();
        let payload = frame.payload();
        assert_eq!(payload.as_ptr(), delivery.frame(variant).unwrap().payload().as_ptr());
        if format.encoding() == Encoding::Protobuf {
            continue;
        }
        let text = std::str::from_utf8(payload).unwrap();
        let text = match format.is_events() {
            true => text.strip_prefix("data: ").unwrap().strip_suffix("\n\n").unwrap(),
            false => text.strip_suffix('\n').unwrap_or(text),
        };
        let bare = text.starts_with("{\"channel\":");
        assert_eq!(bare, format.is_uni(), "{format:?}: {text}");
        assert!(bare || text.starts_with("{\"push\":{\"channel\":"), "{format:?}: {text}");
        assert!(text.contains("\"pub\":{\"data\":{\"a\":1}"), "{format:?}: {text}");
    }
}
