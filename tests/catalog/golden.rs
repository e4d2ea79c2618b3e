//! Compares catalogs with those that the real `compute_ctl` left behind when it was
//! given the same specs on the same PostgreSQL.

use glowplug::spec::neon_json;
use serde_json::Value;
use tokio_postgres::Client;

use super::postgres::Postgres;
use super::{apply, column};

const ROLES: &str = "SELECT jsonb_agg(jsonb_build_object(
    'name', rolname, 'super', rolsuper, 'inherit', rolinherit, 'createrole', rolcreaterole,
    'createdb', rolcreatedb, 'login', rolcanlogin, 'replication', rolreplication,
    'bypassrls', rolbypassrls, 'connlimit', rolconnlimit,
    'verifier', CASE WHEN rolpassword IS NULL THEN 'none'
      WHEN rolpassword LIKE 'md5%' THEN 'md5' ELSE 'scram' END,
    'has_valid_until', rolvaliduntil IS NOT NULL,
    'member_of', (SELECT jsonb_agg(jsonb_build_object('role', r.rolname, 'admin', admin_option,
        'grantor', pg_get_userbyid(grantor)) ORDER BY r.rolname COLLATE \"C\")
      FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid WHERE m.member = a.oid)
  ) ORDER BY rolname COLLATE \"C\") FROM pg_authid a WHERE rolname !~ '^pg_'";

const MEMBERS: &str = "SELECT jsonb_agg(jsonb_build_object('role', r.rolname, 'member', m.rolname,
    'admin', admin_option, 'grantor', pg_get_userbyid(grantor))
    ORDER BY r.rolname COLLATE \"C\", m.rolname COLLATE \"C\")
  FROM pg_auth_members JOIN pg_roles r ON r.oid = roleid JOIN pg_roles m ON m.oid = member
  WHERE r.rolname ~ '^pg_'";

const FUNCTIONS: &str = "SELECT jsonb_agg(jsonb_build_object('function', proname,
    'grantee', pg_get_userbyid(x.grantee), 'privilege', x.privilege_type)
    ORDER BY proname COLLATE \"C\", pg_get_userbyid(x.grantee) COLLATE \"C\")
  FROM pg_proc, aclexplode(proacl) x
  WHERE proname IN ('pg_ls_dir', 'pg_show_replication_origin_status') AND x.grantee <> 0";

const DATABASES: &str = "SELECT jsonb_agg(jsonb_build_object(
    'name', datname, 'owner', pg_get_userbyid(datdba), 'encoding', pg_encoding_to_char(encoding),
    'collate', datcollate, 'ctype', datctype, 'is_template', datistemplate,
    'allow_conn', datallowconn, 'connlimit', datconnlimit,
    'acl', (SELECT jsonb_agg(item::text ORDER BY item::text COLLATE \"C\") FROM unnest(datacl) item)
  ) ORDER BY datname COLLATE \"C\") FROM pg_database";

// Neon's extension, and so its schema, is not to be had here.
const INSIDE: &str = "SELECT jsonb_build_object(
    'schemas', (SELECT jsonb_agg(jsonb_build_object('name', nspname,
        'owner', pg_get_userbyid(nspowner),
        'acl', (SELECT jsonb_agg(item::text ORDER BY item::text COLLATE \"C\")
          FROM unnest(nspacl) item)) ORDER BY nspname COLLATE \"C\")
      FROM pg_namespace WHERE nspname !~ '^(pg_|information_schema|neon$)'),
    'default_acl', (SELECT jsonb_agg(jsonb_build_object('for_role', pg_get_userbyid(defaclrole),
        'schema', defaclnamespace::regnamespace, 'type', defaclobjtype,
        'acl', (SELECT jsonb_agg(item::text ORDER BY item::text COLLATE \"C\")
          FROM unnest(defaclacl) item)) ORDER BY defaclobjtype)
      FROM pg_default_acl))";

async fn json(client: &Client, sql: &str) -> Value {
    serde_json::from_str(&column(client, sql).await[0]).unwrap()
}

async fn check(case: &str) {
    let folder = format!(
        "{}/tests/fixtures/compute_ctl/specs/{case}",
        env!("CARGO_MANIFEST_DIR")
    );
    let read = |name: &str| std::fs::read(format!("{folder}/{name}")).unwrap();
    let config: Value = serde_json::from_slice(&read("config.json")).unwrap();
    let spec = neon_json::parse(config["spec"].to_string().as_bytes()).unwrap();
    let mut expected: Value = serde_json::from_slice(&read("catalog.json")).unwrap();

    let postgres = Postgres::start().await;
    apply(&postgres, &spec).await;
    let client = postgres.connect("postgres").await;
    let version = column(&client, "SHOW server_version_num").await;
    if !version[0].starts_with("15") {
        // Other versions have other predefined roles and privileges.
        return;
    }
    for (part, sql) in [
        ("roles", ROLES),
        ("predefined_role_members", MEMBERS),
        ("function_grants", FUNCTIONS),
        ("databases", DATABASES),
    ] {
        assert_same(part, &json(&client, sql).await, &expected[part]);
    }
    for (database, expected) in expected["per_database"].as_object_mut().unwrap() {
        let schemas = expected["schemas"].as_array_mut().unwrap();
        schemas.retain(|schema| schema["name"] != "neon");
        let client = postgres.connect(database).await;
        assert_same(database, &json(&client, INSIDE).await, expected);
    }
}

/// Names the first entries that differ: whole catalogs are too long to compare by eye.
fn assert_same(part: &str, found: &Value, expected: &Value) {
    if let (Value::Array(found), Value::Array(expected)) = (found, expected) {
        for (found, expected) in found.iter().zip(expected) {
            assert_eq!(found, expected, "{part}");
        }
    }
    assert_eq!(found, expected, "{part}");
}

#[tokio::test]
async fn a_minimal_spec_leaves_the_catalog_that_compute_ctl_leaves() {
    check("01-primary-minimal").await;
}

#[tokio::test]
async fn odd_names_leave_the_catalog_that_compute_ctl_leaves() {
    check("12-odd-names").await;
}
