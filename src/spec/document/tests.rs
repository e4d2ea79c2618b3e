//! Texts that hold a specification, and texts that do not.

use proptest::prelude::*;

use super::*;
use crate::secret::Secret;
use crate::spec::{
    ComputeMode, Flavor, Password, Reason, RemovedObjects, SecretError, no_secrets, report_errors,
};

const RESOURCE: &str = "\
apiVersion: glowplug.dev/v1alpha1
kind: ComputeSpec
metadata: {name: main}
spec:
  tenantId: 9ef87a5bf0d92544f6fafeeb3239695c
  timelineId: de200bd42b49cc1814412c7e592dd6e9
";

fn spec(text: &str) -> ComputeSpec {
    match parse(text, &no_secrets) {
        Ok(document) => document.spec.unwrap(),
        Err(errors) => panic!("{errors}"),
    }
}

fn errors(text: &str) -> Errors {
    match parse(text, &no_secrets) {
        Ok(document) => panic!("accepted: {document:?}"),
        Err(errors) => errors,
    }
}

/// What the terminal says of a resource with these lines in its `spec`.
fn report(lines: &str) -> String {
    report_errors(&errors(&format!("{RESOURCE}{lines}")))
}

#[test]
fn the_examples_are_read() {
    let example = |name: &str| {
        let path = format!("{}/examples/{name}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read_to_string(path).unwrap()
    };
    let known = |_: &str, _: &str| Ok(Secret::new("secret"));

    let local = parse(&example("compute.yaml"), &no_secrets).unwrap();
    let spec = local.spec.unwrap();
    assert_eq!(local.name.as_deref(), Some("main"));
    assert_eq!(local.notes, Vec::<String>::new());
    assert_eq!(spec.postgres.flavor, Flavor::Vanilla);
    assert_eq!(
        spec.roles[0].password,
        Some(Password::Cleartext(Secret::new("change-me")))
    );
    assert!(crate::spec::validate::require_storage(&spec).is_err());

    let on_neon = parse(&example("compute-on-neon.yaml"), &known).unwrap();
    let spec = on_neon.spec.unwrap();
    assert_eq!(on_neon.namespace.as_deref(), Some("shop"));
    assert_eq!(spec.pageservers.shards.len(), 2);
    assert_eq!(spec.neon.suspend_timeout_seconds, 300);
    assert!(crate::spec::validate::require_storage(&spec).is_ok());

    let json = parse(&example("neon-spec.json"), &no_secrets).unwrap();
    assert_eq!(json.form, Form::NeonSpec);
    assert_eq!(json.notes, Vec::<String>::new());
    assert_eq!(json.spec.unwrap().postgres.port, 55433);
}

#[test]
fn a_small_resource_gets_the_defaults() {
    let spec = spec(RESOURCE);
    assert_eq!(spec.mode, ComputeMode::Primary);
    assert_eq!(spec.postgres.flavor, Flavor::Neon);
    assert_eq!(spec.postgres.port, 5432);
    assert_eq!(spec.removed_objects, RemovedObjects::Drop);
    assert!(spec.roles.is_empty());
}

#[test]
fn nulls_count_as_absent() {
    let nulls = "  mode: null\n  postgres: ~\n  storage:\n  roles: null\n";
    assert_eq!(spec(&format!("{RESOURCE}{nulls}")), spec(RESOURCE));
}

#[test]
fn json_and_yaml_say_the_same() {
    let json = r#"{"apiVersion": "glowplug.dev/v1alpha1", "kind": "ComputeSpec",
        "metadata": {"name": "main"}, "spec": {
        "tenantId": "9ef87a5bf0d92544f6fafeeb3239695c",
        "timelineId": "de200bd42b49cc1814412c7e592dd6e9"}}"#;
    assert_eq!(spec(json), spec(RESOURCE));
    let list = format!("apiVersion: v1\nkind: List\nitems:\n- {json}\n");
    assert_eq!(spec(&list), spec(RESOURCE));
}

#[test]
fn all_that_is_wrong_is_said_at_once() {
    let text = report(
        "  mode: Primry
  lsn: 0-16B9188
  postgres:
    port: 70000
    settings:
    - {name: max_connections, value: 200}
    - {name: max connections, value: \"200\"}
    - {name: autovacuum, value: off}
    - {name: port, value: \"5433\"}
  roles:
  - {name: app}
  - {name: app}
  - {name: pg_reader, memberof: [app]}
  databases:
  - {name: shop}
  skipCatalogUpdates: \"no\"
",
    );
    insta::assert_snapshot!(text);
}

#[test]
fn rules_between_fields_are_checked() {
    let text = report(
        "  mode: Static
  postgres:
    settings:
    - {name: Port, value: \"5433\"}
    - {name: neon.safekeepers, value: \"sk-1:5454\"}
  storage:
    pageservers:
      preferProtocol: Grpc
      shards:
      - {number: 0, libpq: \"postgresql://ps-0:6400\"}
      - {number: 2, http: \"http://ps-1:9898\"}
  roles:
  - {name: pg_reader}
  - {name: app, password: {}}
  - {name: both, password: {verifier: md5b3c2f1a09d8e7f6a5b4c3d2e1f009988, secretKeyRef: {name: a, key: b}}}
  - {name: app}
  deltaOperations:
  - {action: RenameRole, name: old}
  - {action: DeleteDatabase, name: old, newName: new}
  suspend: {policy: AfterIdle, after: 0s}
",
    );
    insta::assert_snapshot!(text);
}

#[test]
fn text_that_does_not_parse_is_refused_with_its_place() {
    for (text, expected) in [
        ("spec: [1, 2\nkind: x", "line 2"),
        ("a: 1\n b: 2", "line 2"),
        ("a: 1\na: 2", "duplicate"),
        ("{\"a\": 1,\n \"b\": }", "line 2 column 7"),
    ] {
        let errors = errors(text);
        let problem = &errors.iter().next().unwrap().problem;
        assert!(problem.contains(expected), "{problem}");
    }
}

#[test]
fn a_text_without_a_specification_is_refused() {
    for (text, expected) in [
        ("", "is empty; write a ComputeSpec"),
        ("# only a comment\n---\n", "is empty; write a ComputeSpec"),
        (
            "hello",
            "holds something that is not an object; write apiVersion: glowplug.dev/v1alpha1 and kind: ComputeSpec",
        ),
        (
            "tenantId: x",
            "kind: is missing; write apiVersion: glowplug.dev/v1alpha1 and kind: ComputeSpec",
        ),
        (
            "kind: ComputeSpec\nspec: {}",
            "apiVersion: is missing; write glowplug.dev/v1alpha1",
        ),
        (
            "apiVersion: glowplug.dev/v2\nkind: ComputeSpec",
            "apiVersion: 'glowplug.dev/v2' is unknown; write glowplug.dev/v1alpha1",
        ),
        (
            "apiVersion: v1\nkind: Service",
            "holds no specification; write a ComputeSpec: apiVersion, kind, metadata and spec",
        ),
        (
            "apiVersion: glowplug.dev/v1alpha1\nkind: ComputeSpec",
            "spec: is missing; write at least tenantId and timelineId",
        ),
    ] {
        assert_eq!(errors(text).to_string(), expected, "{text}");
    }
    let two = format!("{RESOURCE}---\n{RESOURCE}");
    assert_eq!(
        errors(&two).to_string(),
        "holds two specifications; keep one in each file"
    );
}

#[test]
fn a_field_at_the_wrong_depth_is_named() {
    let text = errors(&format!("{RESOURCE}roles: []\n")).to_string();
    assert!(text.starts_with("roles: is unknown; "), "{text}");
}

#[test]
fn secrets_of_the_text_come_first() {
    let role = "  roles:\n  - {name: app, password: {secretKeyRef: {name: app, key: password}}}\n";
    let elsewhere = |name: &str, key: &str| match (name, key) {
        ("app", "password") => Ok(Secret::new("elsewhere\n")),
        _ => Err(SecretError::NotFound),
    };
    let password = |text: &str| {
        let document = parse(text, &elsewhere);
        document.map(|document| document.spec.unwrap().roles[0].password.clone().unwrap())
    };
    let cleartext = |text: &str| Ok(Password::Cleartext(Secret::new(text)));

    let alone = format!("{RESOURCE}{role}");
    assert_eq!(password(&alone), cleartext("elsewhere"));
    let secret = "---\napiVersion: v1\nkind: Secret\nmetadata: {name: app}\n";
    let plain = format!("{alone}{secret}stringData: {{password: here}}\n");
    assert_eq!(password(&plain), cleartext("here"));
    let packed = format!("{alone}{secret}data: {{password: aGVyZQ==}}\n");
    assert_eq!(password(&packed), cleartext("here"));

    let other_key = format!("{alone}{secret}stringData: {{pass: here}}\n");
    let errors = password(&other_key).unwrap_err();
    assert_eq!(errors.reason(), Reason::SecretKeyMissing);
    let odd = format!("{alone}{secret}data: {{password: \"%%%\"}}\n");
    let errors = password(&odd).unwrap_err().to_string();
    assert!(
        errors.starts_with("data.password: is not readable"),
        "{errors}"
    );
}

#[test]
fn a_secret_that_is_missing_is_named_as_the_reason() {
    let text = format!(
        "{RESOURCE}  roles:\n  - {{name: app, password: {{secretKeyRef: {{name: app, key: pw}}}}}}\n"
    );
    let errors = errors(&text);
    assert_eq!(errors.reason(), Reason::SecretNotFound);
    assert_eq!(
        errors.to_string(),
        "spec.roles[0].password.secretKeyRef.name: there is no Secret app; create it with the \
         key pw"
    );
}

#[test]
fn a_verifier_in_a_secret_is_not_taken_for_a_password() {
    let text = format!(
        "{RESOURCE}  roles:\n  - {{name: app, password: {{secretKeyRef: {{name: app, key: pw}}}}}}\n"
    );
    let verifier = "SCRAM-SHA-256$4096:c2FsdA==$c3RvcmVk:c2VydmVy";
    let document = parse(&text, &|_, _| Ok(Secret::new(verifier))).unwrap();
    assert_eq!(
        document.spec.unwrap().roles[0].password,
        Some(Password::Verifier(Secret::new(verifier)))
    );
}

#[test]
fn other_objects_are_left_to_kubectl() {
    let text = format!("apiVersion: v1\nkind: Service\n---\n{RESOURCE}");
    let document = parse(&text, &no_secrets).unwrap();
    assert_eq!(
        document.notes,
        ["Service is not glowplug's to read: ignored"]
    );
}

#[test]
fn envelopes_are_told_apart() {
    let spec = r#"{"format_version": 1, "suspend_timeout_seconds": -1,
        "tenant_id": "9ef87a5bf0d92544f6fafeeb3239695c",
        "timeline_id": "de200bd42b49cc1814412c7e592dd6e9",
        "pageserver_connstring": "host=ps port=6400", "safekeeper_connstrings": ["sk:5454"],
        "cluster": {"roles": [], "databases": []}}"#;
    let control = r#""compute_ctl_config": {"jwks": {"keys": []}}"#;
    for (text, form, has_spec) in [
        (spec.to_owned(), Form::NeonSpec, true),
        (
            format!("{{\"spec\": {spec}, {control}}}"),
            Form::NeonConfig,
            true,
        ),
        (
            format!("{{{control}, \"spec\": null}}"),
            Form::NeonConfig,
            false,
        ),
        (
            format!("{{\"status\": \"attached\", \"spec\": {spec}, {control}}}"),
            Form::NeonResponse,
            true,
        ),
        (
            format!("{{\"status\": \"empty\", {control}}}"),
            Form::NeonResponse,
            false,
        ),
    ] {
        for text in [text.clone(), format!("# as YAML\n{text}")] {
            let document = parse(&text, &no_secrets).unwrap();
            assert_eq!(document.form, form, "{text}");
            assert_eq!(document.spec.is_some(), has_spec, "{text}");
            assert_eq!(document.control.is_some(), form != Form::NeonSpec, "{text}");
        }
    }
    let attached = format!("{{\"status\": \"attached\", \"spec\": null, {control}}}");
    assert_eq!(
        errors(&attached).to_string(),
        "spec: is missing; an attached compute has a specification"
    );
    let bare = format!("{{\"spec\": {spec}}}");
    let text = errors(&bare).to_string();
    assert!(
        text.contains("missing field `compute_ctl_config`"),
        "{text}"
    );
}

#[test]
fn an_alias_bomb_is_refused_before_it_grows() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..9 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb.extend([format!("a{level}: &a{level} [{aliases}]\n")]);
    }
    let errors = errors(&bomb).to_string();
    assert!(errors.starts_with("is not valid YAML: "), "{errors}");
}

#[test]
fn depth_and_length_are_limited() {
    let deep = |open: &str| open.repeat(100_000);
    errors(&deep("["));
    errors(&deep("{\"a\":"));
    errors(&deep("- "));
    let long = errors(&" ".repeat(9 * 1024 * 1024)).to_string();
    assert!(long.contains("bytes long"), "{long}");
}

#[test]
fn a_spec_of_the_largest_size_is_read() {
    let mut text = format!("{RESOURCE}  roles:\n");
    for i in 0..10_000 {
        let reference = format!("{{secretKeyRef: {{name: app, key: k{i}}}}}");
        let role =
            format!("  - {{name: r{i}, password: {reference}, memberOf: [neon_superuser]}}\n");
        text.push_str(&role);
    }
    text.push_str("  databases:\n");
    text.extend((0..10_000).map(|i| format!("  - {{name: d{i}, owner: r{i}}}\n")));
    let known = |_: &str, key: &str| Ok(Secret::new(key));
    let spec = parse(&text, &known).unwrap().spec.unwrap();
    assert_eq!((spec.roles.len(), spec.databases.len()), (10_000, 10_000));
}

#[test]
fn a_list_that_is_too_long_is_refused() {
    let databases =
        (0..=10_000).map(|i| serde_json::json!({"name": format!("d{}", i % 10_000), "owner": "a"}));
    let mut object: Value = serde_saphyr::from_str(RESOURCE).unwrap();
    object["spec"]["databases"] = databases.collect();
    let problems = errors(&object.to_string()).to_string();
    assert!(problems.contains("has 10001 entries"), "{problems}");
    assert!(problems.contains("'d0' stands there twice"), "{problems}");
}

#[test]
fn errors_never_show_a_secret() {
    let secret = "---\napiVersion: v1\nkind: Secret\nmetadata: {name: app}\nstringData:\n";
    for text in [
        format!("{RESOURCE}{secret}  password: hunter2: hunter2\n"),
        format!("{RESOURCE}{secret}  password: [hunter2]\n"),
        format!("{RESOURCE}{secret}  password: \"hunter2\n"),
        format!("{RESOURCE}  storage: {{tokenSecretRef: hunter2}}\n"),
    ] {
        let errors = errors(&text);
        assert!(!errors.to_string().contains("hunter2"), "{errors}");
    }
}

proptest! {
    #[test]
    fn no_text_is_too_odd(text in "[ -~\n\t\u{0}äЖ]{0,300}") {
        let _ = parse(&text, &no_secrets);
    }

    #[test]
    fn no_damage_to_a_resource_is_too_odd(at in 0usize..2000, insert in "[ -~\n\u{0}]{0,8}", cut in 0usize..40) {
        let text = include_str!("../../../examples/compute-on-neon.yaml");
        let at = at.min(text.len());
        let rest = text.get(at + cut.min(text.len() - at)..).unwrap_or_default();
        let damaged = format!("{}{insert}{rest}", text.get(..at).unwrap_or_default());
        let _ = parse(&damaged, &|_, _| Ok(Secret::new("x")));
    }

    #[test]
    fn no_damage_to_json_is_too_odd(at in 0usize..2000, insert in "[ -~\n\u{0}]{0,8}", cut in 0usize..40) {
        let text = include_str!("../../../examples/neon-spec.json");
        let at = at.min(text.len());
        let rest = text.get(at + cut.min(text.len() - at)..).unwrap_or_default();
        let damaged = format!("{}{insert}{rest}", text.get(..at).unwrap_or_default());
        let _ = parse(&damaged, &no_secrets);
    }
}
