//! What holds for every specification: its forms say the same, and nothing shows its
//! secrets.

mod arbitrary;

use proptest::prelude::*;
use serde_json::json;

use self::arbitrary::{MARKER, compute_spec};
use super::*;
use crate::secret::Secret;

/// The specification as a file for `kubectl apply`.
fn manifest(spec: &ComputeSpec) -> String {
    let exported = resolve::to_resource(spec, "main-secrets");
    let resource = json!({
        "apiVersion": "glowplug.dev/v1alpha1",
        "kind": "ComputeSpec",
        "metadata": {"name": "main"},
        "spec": exported.spec,
    });
    let texts = exported.secret.iter();
    let texts: std::collections::BTreeMap<_, _> =
        texts.map(|(key, secret)| (key, secret.reveal())).collect();
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "main-secrets"},
        "stringData": texts,
    });
    let yaml = |value| serde_saphyr::to_string(value).unwrap();
    format!("{}---\n{}", yaml(&resource), yaml(&secret))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn nothing_is_lost_in_neon_json(spec in compute_spec()) {
        let json = neon_json::to_json(&spec);
        let read = neon_json::parse(json.as_bytes());
        prop_assert_eq!(read.as_ref(), Ok(&spec), "{}", json);
    }

    #[test]
    fn nothing_is_lost_in_a_resource(spec in compute_spec()) {
        let text = manifest(&spec);
        let read = parse_document(&text, &no_secrets);
        let read = read.map(|document| document.spec);
        prop_assert_eq!(read, Ok(Some(spec)), "{}", text);
    }

    #[test]
    fn secrets_do_not_show(spec in compute_spec()) {
        let resource = resolve::to_resource(&spec, "main-secrets");
        let debug = format!("{spec:?} {resource:?} {:?}", neon_json::to_spec(&spec));
        prop_assert!(!debug.contains(MARKER), "{}", debug);
        let resource = serde_json::to_string(&resource.spec).unwrap();
        prop_assert!(!resource.contains(MARKER), "{}", resource);
    }

    #[test]
    fn the_hash_tells_contents_apart_and_no_secrets(one in compute_spec(), other in compute_spec()) {
        prop_assert_eq!(hash(&one), hash(&one.clone()));
        prop_assert_eq!(hash(&one) == hash(&other), one == other);
        let mut rotated = one.clone();
        rotated.storage_token = rotated.storage_token.map(|_| Secret::new("rotated"));
        prop_assert_eq!(hash(&rotated), hash(&one));
    }

    #[test]
    fn every_difference_is_a_field_of_the_table(one in compute_spec(), other in compute_spec()) {
        let mut other = other;
        other.tenant_id = one.tenant_id;
        other.timeline_id = one.timeline_id;
        other.postgres.version = one.postgres.version;
        let work = change::between(&one, &other).unwrap();
        prop_assert_eq!(work.is_nothing(), one == other);
        prop_assert!(change::between(&one, &one).unwrap().is_nothing());
    }
}
