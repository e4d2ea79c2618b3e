//! Who is let in, with keys and tokens made here.

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use super::*;

const COMPUTE: &str = "compute-1";

/// RFC 8410: an Ed25519 private key is its seed behind this prefix.
const ED25519_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// The public half of the seed 00..1f.
const X: &str = "A6EHv_POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg";

fn ed25519(first: u8) -> EncodingKey {
    let seed = (first..).take(32);
    let der: Vec<u8> = ED25519_PREFIX.into_iter().chain(seed).collect();
    EncodingKey::from_ed_der(&der)
}

fn token(header: &Header, claims: &Value, key: &EncodingKey) -> String {
    jsonwebtoken::encode(header, claims, key).unwrap()
}

fn signed(claims: &Value) -> String {
    token(&Header::new(Algorithm::EdDSA), claims, &ed25519(0))
}

fn jwk() -> Value {
    json!({"use": "sig", "key_ops": ["verify"], "alg": "EdDSA", "kid": "k1",
           "kty": "OKP", "crv": "Ed25519", "x": X})
}

fn keys(jwks: &[Value]) -> Authorizer {
    Authorizer::Keys(Keys::from_jwks(jwks, COMPUTE).unwrap())
}

fn authorize(authorizer: &Authorizer, value: &str) -> Result<(), Denied> {
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, value.parse().unwrap());
    authorizer.authorize(&headers)
}

fn check(claims: &Value, expected: Result<(), Denied>) {
    let bearer = format!("Bearer {}", signed(claims));
    assert_eq!(authorize(&keys(&[jwk()]), &bearer), expected, "{claims}");
}

fn now(offset: i64) -> i64 {
    jiff::Timestamp::now().as_second() + offset
}

#[test]
fn a_token_for_this_compute_passes() {
    check(&json!({"compute_id": COMPUTE}), Ok(()));
    check(
        &json!({"compute_id": "compute-2"}),
        Err(Denied::OtherCompute),
    );
    check(&json!({}), Err(Denied::NoCompute));
}

#[test]
fn an_administrators_token_needs_the_audience() {
    let admin = |aud: Value| json!({"scope": "compute_ctl:admin", "aud": aud});
    check(&admin(json!(["x", "compute"])), Ok(()));
    check(&admin(json!("compute")), Ok(()));
    check(&admin(json!(["x"])), Err(Denied::OtherAudience));
    check(&admin(Value::Null), Err(Denied::NoAudience));
    let unknown = json!({"scope": "compute_ctl:root", "compute_id": COMPUTE});
    check(&unknown, Err(Denied::Unverified));
}

#[test]
fn times_are_checked_with_leeway() {
    let claims = |name: &str, offset| {
        let mut claims = json!({"compute_id": COMPUTE});
        claims[name] = json!(now(offset));
        claims
    };
    check(&claims("exp", -30), Ok(()));
    check(&claims("exp", -120), Err(Denied::Unverified));
    check(&claims("nbf", 30), Ok(()));
    check(&claims("nbf", 120), Err(Denied::Unverified));
}

#[test]
fn tokens_as_upstream_makes_them_pass() {
    // Signed by the seed 00..1f, with upstream's claims.
    let compute = "eyJ0eXAiOiJKV1QiLCJhbGciOiJFZERTQSJ9.eyJjb21wdXRlX2lkIjoiY29tcHV0ZS0xIiwic2NvcGUiOm51bGwsImF1ZCI6bnVsbH0.lTH9NXfjl4GI0F1_lR03gnE31IEXrABUxjlfiQBqrb_RUfZ9N4ik7C-kgzEU6g-NcnBo3FG3eMX06Ze7Nx9NAA";
    let admin = "eyJ0eXAiOiJKV1QiLCJhbGciOiJFZERTQSJ9.eyJjb21wdXRlX2lkIjpudWxsLCJzY29wZSI6ImNvbXB1dGVfY3RsOmFkbWluIiwiYXVkIjpbImNvbXB1dGUiXX0.5mXNJYR4TF_iPz_jhBX7cnI1IQivas3Zwx7uyJGb8kRt-wnmfi8-Le7W2qc1aq3-SgKb0E622lT74itQj1_5Cg";
    let authorizer = keys(&[jwk()]);
    assert_eq!(authorize(&authorizer, &format!("Bearer {compute}")), Ok(()));
    assert_eq!(authorize(&authorizer, &format!("bearer {admin}")), Ok(()));
}

#[test]
fn anything_else_is_turned_away() {
    let authorizer = keys(&[jwk()]);
    let claims = json!({"compute_id": COMPUTE});
    let eddsa = Header::new(Algorithm::EdDSA);
    let other = token(&eddsa, &claims, &ed25519(1));
    // The classic confusion: the public key as the secret of an HMAC.
    let secret = EncodingKey::from_secret(X.as_bytes());
    let hmac = token(&Header::new(Algorithm::HS256), &claims, &secret);
    let none = "eyJhbGciOiJub25lIn0.eyJjb21wdXRlX2lkIjoiY29tcHV0ZS0xIn0.";
    for token in [other.as_str(), &hmac, none, "x.y.z", ""] {
        let result = authorize(&authorizer, &format!("Bearer {token}"));
        assert_eq!(result, Err(Denied::Unverified), "{token}");
    }
    for header in ["Basic YTpi", "Bearer", "token"] {
        let result = authorize(&authorizer, header);
        assert_eq!(result, Err(Denied::NoToken), "{header}");
    }
    assert_eq!(
        authorizer.authorize(&HeaderMap::new()),
        Err(Denied::NoToken)
    );
    assert_eq!(Authorizer::Insecure.authorize(&HeaderMap::new()), Ok(()));
}

#[test]
fn one_unusable_key_does_not_spoil_the_others() {
    let short = json!({"kty": "OKP", "crv": "Ed25519", "x": "AAAA"});
    let symmetric = json!({"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"});
    let mismatched = json!({"kty": "OKP", "crv": "Ed25519", "x": X, "alg": "RS256"});
    let unknown = json!({"kty": "quantum"});
    let unusable = [short, symmetric, mismatched, unknown, json!(1)];
    let error = Keys::from_jwks(&unusable, COMPUTE).unwrap_err();
    assert!(error.to_string().starts_with("none of 5 keys"), "{error}");

    let mut plain = jwk();
    plain["kid"].take();
    plain["alg"].take();
    let [short, ..] = unusable;
    let bearer = format!("Bearer {}", signed(&json!({"compute_id": COMPUTE})));
    assert_eq!(authorize(&keys(&[short, plain]), &bearer), Ok(()));
}

#[test]
fn a_token_that_names_a_known_key_is_verified_by_that_one_alone() {
    let mut other = jwk();
    other["kid"] = json!("k2");
    other["x"] = json!("O2onvM62pC1io6jQKm8Nc2UyFXcd4kOmOsBIoYtZ2ik");
    let authorizer = keys(&[jwk(), other]);
    let with_id = |id: &str| {
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(id.to_owned());
        let claims = json!({"compute_id": COMPUTE});
        let token = token(&header, &claims, &ed25519(0));
        authorize(&authorizer, &format!("Bearer {token}"))
    };
    assert_eq!(with_id("k1"), Ok(()));
    assert_eq!(with_id("k2"), Err(Denied::Unverified));
    // An id that nobody knows says nothing.
    assert_eq!(with_id("k3"), Ok(()));
}

/// Made by `openssl genpkey`; nothing else uses them.
const EC_PRIVATE: &str = include_str!("../../../tests/fixtures/http/ec-private.pem");
const EC_PUBLIC: &str = include_str!("../../../tests/fixtures/http/ec-public.pem");
const RSA_PRIVATE: &str = include_str!("../../../tests/fixtures/http/rsa-private.pem");
const RSA_PUBLIC: &str = include_str!("../../../tests/fixtures/http/rsa-public.pem");
const ED_PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\n\
    MCowBQYDK2VwAyEAA6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg=\n\
    -----END PUBLIC KEY-----\n";

#[test]
fn every_kind_of_key_is_read_from_pem() {
    let claims = json!({"compute_id": COMPUTE});
    let ec = EncodingKey::from_ec_pem(EC_PRIVATE.as_bytes()).unwrap();
    let rsa = EncodingKey::from_rsa_pem(RSA_PRIVATE.as_bytes()).unwrap();
    for (pem, algorithm, key) in [
        (ED_PUBLIC, Algorithm::EdDSA, &ed25519(0)),
        (EC_PUBLIC, Algorithm::ES256, &ec),
        (RSA_PUBLIC, Algorithm::RS256, &rsa),
        (RSA_PUBLIC, Algorithm::PS512, &rsa),
    ] {
        let authorizer = Authorizer::Keys(Keys::parse(pem.as_bytes(), COMPUTE).unwrap());
        let good = token(&Header::new(algorithm), &claims, key);
        assert_eq!(
            authorize(&authorizer, &format!("Bearer {good}")),
            Ok(()),
            "{algorithm:?}"
        );
    }
}

#[test]
fn several_keys_are_read_from_one_pem_file() {
    let claims = json!({"compute_id": COMPUTE});
    let ec = EncodingKey::from_ec_pem(EC_PRIVATE.as_bytes()).unwrap();
    let pem = format!("{ED_PUBLIC}\n{EC_PUBLIC}");
    let authorizer = Authorizer::Keys(Keys::parse(pem.as_bytes(), COMPUTE).unwrap());
    let es256 = token(&Header::new(Algorithm::ES256), &claims, &ec);
    for token in [signed(&claims), es256] {
        assert_eq!(authorize(&authorizer, &format!("Bearer {token}")), Ok(()));
    }
}

#[test]
fn old_and_new_keys_pass_while_one_replaces_the_other() {
    let claims = json!({"compute_id": COMPUTE});
    let ring = Arc::new(KeyRing::new(COMPUTE, std::time::Duration::from_hours(1)));
    let authorizer = Authorizer::Ring(ring.clone());
    let old = format!("Bearer {}", signed(&claims));
    assert_eq!(authorize(&authorizer, &old), Err(Denied::Unverified));
    let keys = |jwk: &Value| Keys::from_jwks(std::slice::from_ref(jwk), COMPUTE).unwrap();
    ring.replace(Origin::File, keys(&jwk()));
    assert_eq!(authorize(&authorizer, &old), Ok(()));

    // The new key has the old one's name, as careless signers have it.
    let ec = EncodingKey::from_ec_pem(EC_PRIVATE.as_bytes()).unwrap();
    let new = token(&Header::new(Algorithm::ES256), &claims, &ec);
    let new = format!("Bearer {new}");
    assert_eq!(authorize(&authorizer, &new), Err(Denied::Unverified));
    ring.replace(
        Origin::File,
        Keys::parse(EC_PUBLIC.as_bytes(), COMPUTE).unwrap(),
    );
    assert_eq!(authorize(&authorizer, &old), Ok(()));
    assert_eq!(authorize(&authorizer, &new), Ok(()));
}

#[test]
fn keys_are_read_from_json_in_either_form() {
    let bearer = format!("Bearer {}", signed(&json!({"compute_id": COMPUTE})));
    for json in [jwk(), json!({"keys": [jwk()]})] {
        let keys = Keys::parse(json.to_string().as_bytes(), COMPUTE).unwrap();
        assert_eq!(authorize(&Authorizer::Keys(keys), &bearer), Ok(()));
    }
    for text in [
        "",
        "{",
        "{\"keys\": 1}",
        "-----BEGIN PUBLIC KEY-----",
        EC_PRIVATE,
    ] {
        let error = Keys::parse(text.as_bytes(), COMPUTE).unwrap_err();
        assert!(error.to_string().contains("give a public key"), "{error}");
    }
}

#[test]
fn a_development_key_lets_its_own_token_in() {
    let made = crate::http::dev_key::generate(COMPUTE).unwrap();
    let other = crate::http::dev_key::generate(COMPUTE).unwrap();
    let bearer = format!("Bearer {}", made.token.reveal());
    assert_eq!(authorize(&Authorizer::Keys(made.keys), &bearer), Ok(()));
    let refused = authorize(&Authorizer::Keys(other.keys), &bearer);
    assert_eq!(refused, Err(Denied::Unverified));
}
