//! Tokens of every kind against the verifier. `fixtures.json` has keys and signatures made with
//! OpenSSL, so that the library that verifies is not the one that signed; claims are varied with
//! HS256.

use serde_json::{Value, json};

use super::*;
use crate::gateway::channels::Switch;
use crate::gateway::tokens::{ServerSubscription, TokenRequest};
use crate::options::Secret;

const NOW: i64 = 1_800_000_000;

fn fixtures() -> Value {
    serde_json::from_str(include_str!("fixtures.json")).unwrap()
}

fn text<'a>(fixtures: &'a Value, table: &str, key: &str) -> &'a str {
    fixtures[table][key].as_str().unwrap()
}

fn verifier(change: impl Fn(&mut Token)) -> Verifier {
    let mut options = Token::default();
    change(&mut options);
    Verifier::new(&options).unwrap()
}

fn with_secret() -> Verifier {
    verifier(|options| options.hmac_secret_key = Secret::new("secret"))
}

fn with_set() -> Verifier {
    let mut verifier =
        verifier(|options| options.jwks_public_endpoint = "https://issuer/keys".to_owned());
    assert!(verifier.fetches_keys());
    let text = fixtures()["jwks"].to_string();
    let count = verifier.replace_keys("https://issuer/keys", text.as_bytes()).unwrap();
    assert_eq!(count, 5);
    verifier
}

fn encoded(json: &Value) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(json.to_string())
}

fn sign_with(header: &Value, claims: &Value, secret: &[u8]) -> String {
    let message = format!("{}.{}", encoded(header), encoded(claims));
    let key = jsonwebtoken::EncodingKey::from_secret(secret);
    let algorithm = jsonwebtoken::Algorithm::HS256;
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, algorithm).unwrap();
    format!("{message}.{signature}")
}

fn signed(claims: &Value) -> String {
    sign_with(&json!({"alg": "HS256"}), claims, b"secret")
}

fn reason(error: TokenError) -> String {
    match error {
        TokenError::Invalid(reason) => reason.into_owned(),
        other => format!("{other:?}"),
    }
}

#[test]
fn every_algorithm_verifies_with_its_key_and_no_other() {
    let fixtures = fixtures();
    let pem = |key| text(&fixtures, "pem", key).to_owned();
    let verifiers: Vec<(Verifier, &[&str])> = vec![
        (with_secret(), &["HS256", "HS384", "HS512"]),
        (verifier(|o| o.rsa_public_key = pem("rsa")), &["RS256", "RS384", "RS512"]),
        (verifier(|o| o.rsa_public_key = pem("rsa_pkcs1")), &["RS256", "RS384", "RS512"]),
        (verifier(|o| o.ecdsa_public_key = pem("es256")), &["ES256"]),
        (verifier(|o| o.ecdsa_public_key = pem("es384")), &["ES384"]),
        (verifier(|o| o.ecdsa_public_key = pem("es512")), &["ES512"]),
        (with_set(), &["RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "EdDSA"]),
        (verifier(|_| {}), &[]),
    ];
    let tokens = fixtures["tokens"].as_object().unwrap();
    assert_eq!(tokens.len(), 10);
    for (n, (verifier, accepted)) in verifiers.iter().enumerate() {
        for (algorithm, token) in tokens {
            let found = verifier.connection(token.as_str().unwrap(), NOW);
            match accepted.contains(&algorithm.as_str()) {
                true => {
                    let claims = found.unwrap();
                    assert_eq!(claims.user, "42");
                    assert_eq!(claims.expire_at, Some(2_000_000_000));
                    assert_eq!(claims.info, "{\"name\": \"Al\u{e9}x\"}");
                }
                false => {
                    let error = found.unwrap_err();
                    assert!(matches!(error, TokenError::Invalid(_)), "{n} {algorithm}: {error:?}");
                }
            }
        }
    }
}

#[test]
fn every_changed_character_breaks_the_token() {
    let fixtures = fixtures();
    let set = with_set();
    let secret = with_secret();
    for (algorithm, token) in fixtures["tokens"].as_object().unwrap() {
        let token = token.as_str().unwrap();
        let verifier = if algorithm.starts_with("HS") { &secret } else { &set };
        assert!(verifier.connection(token, NOW).is_ok());
        // Public keys are slow: every seventh character of theirs, and the last.
        let step = if algorithm.starts_with("HS") { 1 } else { 7 };
        for at in (0..token.len()).step_by(step).chain([token.len() - 1]) {
            for other in ["A", "_", ".", "="] {
                if &token[at..=at] == other {
                    continue;
                }
                let changed = format!("{}{other}{}", &token[..at], &token[at + 1..]);
                assert!(verifier.connection(&changed, NOW).is_err(), "{algorithm} {at} {other}");
            }
            assert!(verifier.connection(&token[..at], NOW).is_err(), "{algorithm} cut at {at}");
        }
    }
}

#[test]
fn unsigned_tokens_are_refused_whatever_they_call_it() {
    let claims = json!({"sub": "42"});
    for name in ["none", "None", "NONE", "nOnE", ""] {
        for verifier in [with_secret(), with_set(), verifier(|_| {})] {
            let message = format!("{}.{}", encoded(&json!({"alg": name})), encoded(&claims));
            for token in [format!("{message}."), message.clone(), format!("{message}.AAAA")] {
                assert!(matches!(verifier.connection(&token, NOW), Err(TokenError::Invalid(_))));
            }
        }
    }
}

/// The classic: a token signed with HMAC under the text of the public key.
#[test]
fn a_public_key_is_no_secret() {
    let fixtures = fixtures();
    let claims = json!({"sub": "admin"});
    for (key, kid) in [("rsa", "rsa"), ("rsa_pkcs1", "rsa"), ("es256", "es256"), ("es512", "es512")]
    {
        let pem = text(&fixtures, "pem", key);
        let header = json!({"alg": "HS256", "kid": kid});
        let forgeries = [
            sign_with(&header, &claims, pem.as_bytes()),
            sign_with(&header, &claims, pem.trim().as_bytes()),
            sign_with(&header, &claims, b""),
        ];
        let by_pem = verifier(|options| match key.starts_with("rsa") {
            true => options.rsa_public_key = pem.to_owned(),
            false => options.ecdsa_public_key = pem.to_owned(),
        });
        for forgery in &forgeries {
            for verifier in [&by_pem, &with_set()] {
                let error = verifier.connection(forgery, NOW).unwrap_err();
                assert_eq!(reason(error), "there is no key for its algorithm");
            }
        }
    }
}

#[test]
fn an_empty_secret_verifies_nothing() {
    let forged = sign_with(&json!({"alg": "HS256"}), &json!({"sub": "admin"}), b"");
    let error = verifier(|_| {}).connection(&forged, NOW).unwrap_err();
    assert_eq!(reason(error), "there is no key for its algorithm");
    assert!(with_secret().connection(&forged, NOW).is_err());
}

#[test]
fn time_is_told_from_forgery() {
    // exp, nbf, and whether the token counts at NOW.
    let cases = [
        (json!({}), true),
        (json!({"exp": NOW + 1}), true),
        (json!({"exp": NOW}), false),
        (json!({"exp": NOW - 1}), false),
        (json!({"exp": 0}), false),
        (json!({"exp": NOW as f64 + 1.5}), true),
        (json!({"exp": NOW as f64 + 0.5}), false),
        (json!({"exp": 1e300}), true),
        (json!({"exp": -1e300}), false),
        (json!({"nbf": NOW}), true),
        (json!({"nbf": NOW + 1}), false),
        (json!({"nbf": NOW - 1, "exp": NOW + 1}), true),
        // For how long the connection may stay is another matter.
        (json!({"exp": NOW + 1, "expire_at": NOW - 1}), true),
        (json!({"exp": NOW - 1, "expire_at": NOW + 100}), false),
    ];
    let verifier = with_secret();
    for (mut claims, counts) in cases {
        let connection = verifier.connection(&signed(&claims), NOW);
        claims["channel"] = json!("x");
        let subscription = verifier.subscription(&signed(&claims), NOW);
        match counts {
            true => assert!(connection.is_ok() && subscription.is_ok(), "{claims}"),
            false => {
                assert_eq!(connection, Err(TokenError::Expired), "{claims}");
                assert_eq!(subscription, Err(TokenError::Expired), "{claims}");
            }
        }
    }
    // A forged token is not said to be expired, which would make the client try again.
    let forged = sign_with(&json!({"alg": "HS256"}), &json!({"exp": 1}), b"other");
    assert!(matches!(verifier.connection(&forged, NOW), Err(TokenError::Invalid(_))));
    let malformed = signed(&json!({"exp": "tomorrow"}));
    assert!(matches!(verifier.connection(&malformed, NOW), Err(TokenError::Invalid(_))));
}

#[test]
fn expiry_is_expire_at_or_exp() {
    let cases = [
        (json!({}), None),
        (json!({"exp": NOW + 9}), Some(NOW + 9)),
        (json!({"exp": NOW + 9, "expire_at": NOW + 5}), Some(NOW + 5)),
        (json!({"exp": NOW + 9, "expire_at": 0}), None),
        (json!({"expire_at": NOW + 5}), Some(NOW + 5)),
        (json!({"expire_at": NOW - 5}), Some(NOW - 5)),
    ];
    for (mut claims, expected) in cases {
        let verifier = with_secret();
        assert_eq!(verifier.connection(&signed(&claims), NOW).unwrap().expire_at, expected);
        claims["channel"] = json!("x");
        assert_eq!(verifier.subscription(&signed(&claims), NOW).unwrap().expire_at, expected);
    }
}

#[test]
fn audience_and_issuer_are_demanded() {
    let exact = |options: &mut Token| {
        options.hmac_secret_key = Secret::new("secret");
        options.audience = "us".to_owned();
        options.issuer = "me".to_owned();
    };
    let pattern = |options: &mut Token| {
        options.hmac_secret_key = Secret::new("secret");
        options.audience_regex = "^u[a-z]$".to_owned();
        options.issuer_regex = "^m".to_owned();
    };
    // Claims, and whether the exact and the pattern demand accept them.
    let cases = [
        (json!({"aud": "us", "iss": "me"}), true, true),
        (json!({"aud": ["them", "us"], "iss": "me"}), true, true),
        (json!({"aud": "us", "iss": "myself"}), false, true),
        (json!({"aud": "ux", "iss": "me"}), false, true),
        (json!({"aud": "USA", "iss": "me"}), false, false),
        (json!({"aud": [], "iss": "me"}), false, false),
        (json!({"iss": "me"}), false, false),
        (json!({"aud": "us"}), false, false),
        (json!({"aud": "us", "iss": "you"}), false, false),
        (json!({"aud": 7, "iss": "me"}), false, false),
        (json!({"aud": "us", "iss": ["me"]}), false, false),
        (json!({}), false, false),
    ];
    for (claims, by_text, by_pattern) in cases {
        let token = signed(&claims);
        assert_eq!(verifier(exact).connection(&token, NOW).is_ok(), by_text, "{claims}");
        assert_eq!(verifier(pattern).connection(&token, NOW).is_ok(), by_pattern, "{claims}");
    }
}

#[test]
fn the_user_is_sub_or_the_claim_that_is_configured() {
    let claim = |name: &str| {
        verifier(|options| {
            options.hmac_secret_key = Secret::new("secret");
            options.user_id_claim = name.to_owned();
        })
    };
    let claims = json!({
        "sub": "sub", "uid": "u1", "number": 42, "nested": {"id": "n1"},
        "https://example.org/id": "url", "list": [1], "nothing": null,
    });
    let cases = [
        ("", Ok("sub")),
        ("uid", Ok("u1")),
        ("number", Ok("42")),
        ("nested.id", Ok("n1")),
        ("https://example.org/id", Ok("url")),
        ("missing", Ok("")),
        ("nested.missing", Ok("")),
        ("nothing", Ok("")),
        ("list", Err(())),
        ("nested", Err(())),
    ];
    for (name, expected) in cases {
        let found = claim(name).connection(&signed(&claims), NOW);
        assert_eq!(found.map(|c| c.user).map_err(|_| ()), expected.map(str::to_owned), "{name}");
    }
    assert_eq!(with_secret().connection(&signed(&json!({})), NOW).unwrap().user, "");
    assert!(with_secret().connection(&signed(&json!({"sub": 42})), NOW).is_err());
}

#[test]
fn connection_claims_are_read() {
    let token = signed(&json!({
        "sub": "42", "info": {"name": "x"}, "meta": {"secret": 1}, "unknown": true,
        "channels": ["ignored where there are subs"],
        "subs": {
            "a": {},
            "b": {"info": [1], "data": "text", "override": {"presence": {"value": true}}},
            "c": {"b64info": "aGk=", "b64data": "/w==", "info": 1},
        },
    }));
    let claims = with_secret().connection(&token, NOW).unwrap();
    assert_eq!(claims.info, "{\"name\":\"x\"}");
    assert_eq!(claims.meta, "{\"secret\":1}");
    let [a, b, c] = &claims.subs[..] else { panic!("{claims:?}") };
    assert_eq!(*a, ServerSubscription { channel: "a".to_owned(), ..ServerSubscription::default() });
    assert_eq!((&b.info[..], &b.data[..]), (&b"[1]"[..], &b"\"text\""[..]));
    assert_eq!(b.overrides.presence, Some(Switch { value: true }));
    assert_eq!((&c.info[..], &c.data[..]), (&b"hi"[..], &b"\xff"[..]));

    let listed = signed(&json!({"channels": ["a", "b"], "subs": {}, "b64info": "aGk="}));
    let claims = with_secret().connection(&listed, NOW).unwrap();
    let names: Vec<_> = claims.subs.iter().map(|sub| sub.channel.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(claims.info, "hi");
    let nulls = signed(&json!({"info": null, "channels": null, "subs": null, "exp": null}));
    assert_eq!(with_secret().connection(&nulls, NOW), Ok(ConnectionClaims::default()));
}

#[test]
fn payloads_have_no_line_breaks() {
    let message = |claims: &str| {
        use base64::Engine as _;
        let engine = base64::engine::general_purpose::URL_SAFE_NO_PAD;
        let message = format!("{}.{}", encoded(&json!({"alg": "HS256"})), engine.encode(claims));
        let key = jsonwebtoken::EncodingKey::from_secret(b"secret");
        let algorithm = jsonwebtoken::Algorithm::HS256;
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, algorithm).unwrap();
        format!("{message}.{signature}")
    };
    let token = message("{\"info\": {\n  \"a\": \"x\\ny\",\r\n  \"b\": 1\n}}");
    let claims = with_secret().connection(&token, NOW).unwrap();
    assert_eq!(claims.info, "{  \"a\": \"x\\ny\",  \"b\": 1}");
    for broken in
        ["", "null", "[]", "{", "{} {}", "\"x\"", "{\"info\": }", "{\"sub\":\"a\",\"sub\":\"b\"}"]
    {
        let error = with_secret().connection(&message(broken), NOW).unwrap_err();
        assert!(matches!(error, TokenError::Invalid(_)), "{broken}");
    }
}

#[test]
fn kinds_of_tokens_are_not_mixed_up() {
    let connection = signed(&json!({"sub": "42"}));
    let subscription = signed(&json!({"sub": "42", "channel": "x"}));
    let verifier = with_secret();
    assert!(verifier.connection(&connection, NOW).is_ok());
    let error = verifier.connection(&subscription, NOW).unwrap_err();
    assert!(reason(error).contains("subscription token"));
    assert!(verifier.subscription(&subscription, NOW).is_ok());
    let error = verifier.subscription(&connection, NOW).unwrap_err();
    assert!(reason(error).contains("channel"));
    let empty = signed(&json!({"sub": "42", "channel": ""}));
    assert!(verifier.connection(&empty, NOW).is_ok());
    assert!(verifier.subscription(&empty, NOW).is_err());
}

#[test]
fn subscription_claims_are_read() {
    let token = signed(&json!({
        "sub": "42", "channel": "x", "client": "c1", "exp": NOW + 9, "info": {"a": 1}, "data": [2],
        "override": {"force_recovery": {"value": true}, "join_leave": {"value": false}},
    }));
    let claims = with_secret().subscription(&token, NOW).unwrap();
    assert_eq!((&*claims.user, &*claims.channel, &*claims.client), ("42", "x", "c1"));
    assert_eq!((&claims.info[..], &claims.data[..]), (&b"{\"a\":1}"[..], &b"[2]"[..]));
    assert_eq!(claims.expire_at, Some(NOW + 9));
    assert_eq!(claims.overrides.force_recovery, Some(Switch { value: true }));
    assert_eq!(claims.overrides.join_leave, Some(Switch { value: false }));
    for wrong in ["b64info", "b64data"] {
        let token = signed(&json!({"channel": "x", wrong: "no base64!"}));
        assert!(reason(with_secret().subscription(&token, NOW).unwrap_err()).contains("base64"));
    }
}

#[test]
fn the_previous_secret_counts_until_its_date() {
    let both = |until| {
        verifier(|options| {
            options.hmac_secret_key = Secret::new("new");
            options.hmac_previous_secret_key = Secret::new("secret");
            options.hmac_previous_secret_key_valid_until = until;
        })
    };
    let old = signed(&json!({"sub": "42"}));
    let new = sign_with(&json!({"alg": "HS256"}), &json!({"sub": "42"}), b"new");
    for (until, accepted) in [(0, true), (NOW + 1, true), (NOW, true), (NOW - 1, false)] {
        assert_eq!(both(until).connection(&old, NOW).is_ok(), accepted, "{until}");
        assert!(both(until).connection(&new, NOW).is_ok());
        let other = sign_with(&json!({"alg": "HS256"}), &json!({}), b"other");
        assert!(both(until).connection(&other, NOW).is_err());
    }
}

#[test]
fn unknown_keys_are_asked_for_where_they_can_be_had() {
    let fixtures = fixtures();
    let token = text(&fixtures, "tokens", "ES256");
    let mut fetching =
        verifier(|options| options.jwks_public_endpoint = "https://issuer/keys".to_owned());
    assert_eq!(fetching.connection(token, NOW), Err(TokenError::NeedKey("es256".to_owned())));
    let keys = KeySet::parse(fixtures["jwks"].to_string().as_bytes()).unwrap();
    fetching.set_keys("https://other/keys", &keys);
    assert!(fetching.connection(token, NOW).is_err());
    fetching.set_keys("https://issuer/keys", &keys);
    assert!(fetching.connection(token, NOW).is_ok());
    // A set that is broken changes nothing.
    for broken in [
        "",
        "{}",
        "{\"keys\": []}",
        "{\"keys\": [{\"kty\": \"oct\", \"kid\": \"a\", \"k\": \"AA\"}]}",
    ] {
        assert!(fetching.replace_keys("https://issuer/keys", broken.as_bytes()).is_err());
        assert!(fetching.connection(token, NOW).is_ok());
    }
    // Without a name there is nothing to ask for, and nothing is guessed.
    for header in [json!({"alg": "ES256"}), json!({"alg": "ES256", "kid": ""})] {
        let nameless = sign_with(&header, &json!({}), b"x");
        assert_eq!(
            reason(fetching.connection(&nameless, NOW).unwrap_err()),
            "it names no key (kid)"
        );
    }
    // What is not a public key's business does not make anybody fetch.
    let forged = sign_with(&json!({"alg": "HS256", "kid": "new"}), &json!({}), b"x");
    assert!(matches!(fetching.connection(&forged, NOW), Err(TokenError::Invalid(_))));
    let text = fixtures["jwks"].to_string();
    assert!(with_secret().replace_keys("https://issuer/keys", text.as_bytes()).is_err());
}

#[test]
fn a_set_from_a_file_never_asks() {
    let fixtures = fixtures();
    let file = std::env::temp_dir().join(format!("ringhold-jwks-{}", std::process::id()));
    std::fs::write(&file, fixtures["jwks"].to_string()).unwrap();
    let name = file.display().to_string();
    let verifier = verifier(|options| options.jwks_file = name.clone());
    std::fs::remove_file(&file).unwrap();
    assert!(!verifier.fetches_keys());
    assert!(verifier.connection(text(&fixtures, "tokens", "EdDSA"), NOW).is_ok());
    let unknown = sign_with(&json!({"alg": "RS256", "kid": "new"}), &json!({}), b"x");
    assert!(matches!(verifier.connection(&unknown, NOW), Err(TokenError::Invalid(_))));
    let missing = Verifier::new(&Token { jwks_file: name, ..Token::default() }).unwrap_err();
    assert_eq!(missing[0].key, "jwks_file");
}

#[test]
fn keys_of_a_set_are_used_for_what_they_are() {
    let fixtures = fixtures();
    let change = |kid: &str, key: &str, value: Value| {
        let mut set = fixtures["jwks"].clone();
        for one in set["keys"].as_array_mut().unwrap() {
            if one["kid"] == kid {
                one[key] = value.clone();
            }
        }
        KeySet::parse(set.to_string().as_bytes()).unwrap()
    };
    assert!(!change("rsa", "use", json!("enc")).contains("rsa"));
    assert!(!change("es256", "alg", json!("ES384")).contains("es256"));
    assert!(!change("es256", "crv", json!("P-384")).contains("es256"));
    assert!(!change("es256", "crv", json!("secp256k1")).contains("es256"));
    assert!(!change("es256", "x", json!("AAAA")).contains("es256"));
    assert!(!change("rsa", "e", json!("")).contains("rsa"));
    assert!(!change("rsa", "alg", json!("RSA-OAEP")).contains("rsa"));
    assert!(!change("ed", "crv", json!("Ed448")).contains("ed"));
    // A key that says for which algorithm it is, is for no other.
    let mut verifier = with_set();
    verifier.set_keys("https://issuer/keys", &change("rsa", "alg", json!("RS256")));
    assert!(verifier.connection(text(&fixtures, "tokens", "RS256"), NOW).is_ok());
    assert!(verifier.connection(text(&fixtures, "tokens", "RS384"), NOW).is_err());
    // Two keys of one name: either may have signed.
    let mut twice = fixtures["jwks"].clone();
    for key in twice["keys"].as_array_mut().unwrap() {
        key["kid"] = json!("rsa");
    }
    verifier.set_keys("https://issuer/keys", &KeySet::parse(twice.to_string().as_bytes()).unwrap());
    assert!(verifier.connection(text(&fixtures, "tokens", "RS256"), NOW).is_ok());
    let many = json!({"keys": vec![fixtures["jwks"]["keys"][0].clone(); 300]});
    assert!(KeySet::parse(many.to_string().as_bytes()).unwrap_err().0.contains("300 keys"));
}

#[test]
fn a_reload_keeps_the_keys_that_were_fetched_from_the_same_place() {
    let fixtures = fixtures();
    let token = text(&fixtures, "tokens", "ES256");
    let fetching = |url: &str| verifier(|options| options.jwks_public_endpoint = url.to_owned());
    let mut same = fetching("https://issuer/keys");
    same.keep_fetched_keys(&with_set());
    assert!(same.connection(token, NOW).is_ok());
    let mut other = fetching("https://other/keys");
    other.keep_fetched_keys(&with_set());
    assert_eq!(other.connection(token, NOW), Err(TokenError::NeedKey("es256".to_owned())));
}

#[test]
fn a_set_has_its_bounds_and_says_what_is_wrong_with_its_first_key() {
    let key = fixtures()["jwks"]["keys"][0].clone();
    let parse = |keys: Vec<Value>| KeySet::parse(json!({ "keys": keys }).to_string().as_bytes());
    assert!(KeySet::default().is_empty());
    let most = parse(vec![key.clone(); 256]).unwrap();
    assert_eq!((most.len(), most.is_empty()), (256, false));
    assert!(parse(vec![key; 257]).is_err());
    let other = |kid: &str, kty: &str| json!({"kid": kid, "kty": kty});
    let error = parse(vec![other("a", "oct"), other("b", "other")]).unwrap_err();
    let why = "has no usable key: key \"a\" is of type oct, which is not supported";
    assert_eq!(error.to_string(), why);
}

#[test]
fn coordinates_have_the_length_of_their_curve_each() {
    use base64::Engine as _;
    let engine = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let fixtures = fixtures();
    let keys = fixtures["jwks"]["keys"].as_array().unwrap();
    let key = keys.iter().find(|key| key["kid"] == "es384").unwrap();
    let bytes = |name: &str| engine.decode(key[name].as_str().unwrap()).unwrap();
    // A point of one curve that is cut where the coordinate of another ends.
    let point = [bytes("x"), bytes("y")].concat();
    let (x, y) = point.split_at(32);
    let cut = json!({"keys": [{
        "kid": "cut", "kty": "EC", "crv": "P-256", "x": engine.encode(x), "y": engine.encode(y),
    }]});
    assert!(KeySet::parse(cut.to_string().as_bytes()).unwrap_err().0.contains("wrong length"));
}

#[test]
fn the_issuer_chooses_among_the_key_sets_that_are_configured() {
    let mut verifier = verifier(|options| {
        options.jwks_public_endpoint = "https://{{realm}}/keys".to_owned();
        options.issuer_regex = "^https://id/(?P<realm>one|two)$".to_owned();
    });
    let set = fixtures()["jwks"].to_string();
    assert_eq!(verifier.replace_keys("https://two/keys", set.as_bytes()), Ok(5));
    let from = |issuer: &str| {
        let header = json!({"alg": "ES256", "kid": "es256"});
        let token = sign_with(&header, &json!({ "iss": issuer }), b"none of theirs");
        verifier.connection(&token, NOW).unwrap_err()
    };
    assert_eq!(from("https://id/one"), TokenError::NeedKey("es256".to_owned()));
    assert_eq!(reason(from("https://id/two")), "the signature does not hold");
    let nowhere = "no keys are for its issuer and audience";
    assert_eq!(reason(from("https://id/three")), nowhere);
    assert_eq!(reason(from("")), nowhere);
}

#[test]
fn errors_say_what_is_wrong() {
    assert_eq!(TokenError::Expired.to_string(), "the token expired");
    assert_eq!(TokenError::NeedKey("a".to_owned()).to_string(), "no key \"a\" in the key set");
    assert_eq!(invalid("it is odd").to_string(), "it is odd");
    let secretless = TokenRequest::default().sign("").unwrap_err();
    assert_eq!(secretless.to_string(), "the secret is empty");
    let fixtures = fixtures();
    let ecdsa = verifier(|options| {
        options.ecdsa_public_key = text(&fixtures, "pem", "es256").to_owned();
    });
    let error = ecdsa.connection(text(&fixtures, "tokens", "EdDSA"), NOW).unwrap_err();
    assert_eq!(reason(error), "there is no key for its algorithm");
}

#[test]
fn an_empty_payload_in_base64_is_none() {
    let claims = json!({"sub": "42", "info": {"a": 1}, "b64info": ""});
    let claims = with_secret().connection(&signed(&claims), NOW).unwrap();
    assert_eq!(claims.info, "{\"a\":1}");
}

#[test]
fn extensions_that_must_be_understood_are_not() {
    let token = sign_with(&json!({"alg": "HS256", "crit": ["b64"]}), &json!({}), b"secret");
    assert!(reason(with_secret().connection(&token, NOW).unwrap_err()).contains("crit"));
}

#[test]
fn bad_options_are_all_named() {
    let mistakes = Verifier::new(&Token {
        rsa_public_key: "secret".to_owned(),
        ecdsa_public_key: text(&fixtures(), "pem", "rsa").to_owned(),
        audience_regex: "(".to_owned(),
        issuer: "a".to_owned(),
        issuer_regex: "b".to_owned(),
        ..Token::default()
    })
    .unwrap_err();
    let keys: Vec<_> = mistakes.iter().map(|mistake| mistake.key).collect();
    assert_eq!(keys, ["rsa_public_key", "ecdsa_public_key", "audience_regex", "issuer_regex"]);
}

#[test]
fn tokens_that_are_made_here_are_accepted_here() {
    let request = TokenRequest {
        sub: "42".to_owned(),
        iat: NOW,
        exp: Some(NOW + 60),
        info: Some(json!({"name": "x"})),
        channels: vec!["a".to_owned()],
        ..TokenRequest::default()
    };
    let token = request.sign("secret").unwrap();
    let claims = with_secret().connection(&token, NOW).unwrap();
    assert_eq!((claims.user.as_str(), claims.expire_at), ("42", Some(NOW + 60)));
    assert_eq!(with_secret().connection(&token, NOW + 60), Err(TokenError::Expired));
    let request = TokenRequest { channel: Some("x".to_owned()), ..request };
    let claims = with_secret().subscription(&request.sign("secret").unwrap(), NOW).unwrap();
    assert_eq!(claims.channel, "x");
    assert!(request.sign("").is_err());
}

proptest::proptest! {
    #[test]
    fn arbitrary_tokens_never_panic(token in "\\PC{0,80}", now: i64) {
        proptest::prop_assert!(with_secret().connection(&token, now).is_err());
        proptest::prop_assert!(with_secret().subscription(&token, now).is_err());
    }

    #[test]
    fn arbitrary_claims_that_are_signed_never_panic(
        claims in "\\PC{0,60}", exp: i64, expire_at: i64, nbf: f64, now: i64,
    ) {
        let token = sign_with(&json!({"alg": "HS256"}), &json!(claims), b"secret");
        let _ = with_secret().connection(&token, now);
        let dated = json!({"exp": exp, "expire_at": expire_at, "nbf": nbf, "channel": claims});
        let _ = with_secret().subscription(&signed(&dated), now);
    }

    #[test]
    fn arbitrary_key_sets_never_panic(text in "\\PC{0,60}", n: Vec<u8>, crv in "P-(256|384|521)") {
        use base64::Engine as _;
        let number = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(&n);
        let key = |kty: &str, crv: &str| json!({
            "kty": kty, "kid": "a", "crv": crv, "n": number, "e": number, "x": number, "y": number,
        });
        let set = json!({"keys": [key("RSA", ""), key("EC", &crv), key("OKP", "Ed25519")]});
        let _ = KeySet::parse(text.as_bytes());
        let _ = KeySet::parse(set.to_string().as_bytes());
    }
}
