//! SQL of changes inside databases, some of which have to look around there first.

use super::Script;
use crate::catalog::quote::{dollar, ident, literal};

/// `DROP OWNED` revokes only what owners granted. What others passed on by a grant
/// option must be revoked in their names, or `DROP ROLE` is refused. From 16 on that is
/// refused for memberships as well that the role granted: others keep those, from the
/// superuser.
pub(super) fn release_role(name: &str, heir: &str) -> Script {
    let revoke = format!(
        "DECLARE passed_on record;
BEGIN
  IF pg_catalog.current_setting('server_version_num')::pg_catalog.int4 >= 160000 THEN
    FOR passed_on IN EXECUTE 'SELECT pg_catalog.pg_get_userbyid(roleid) AS role,
        pg_catalog.pg_get_userbyid(member) AS member, admin_option::pg_catalog.text,
        inherit_option::pg_catalog.text, set_option::pg_catalog.text
      FROM pg_catalog.pg_auth_members
      WHERE grantor = (SELECT oid FROM pg_catalog.pg_authid WHERE rolname = $1)' USING {name}
    LOOP
      EXECUTE pg_catalog.format('GRANT %I TO %I WITH ADMIN %s, INHERIT %s, SET %s', passed_on.role,
        passed_on.member, passed_on.admin_option, passed_on.inherit_option, passed_on.set_option);
      EXECUTE pg_catalog.format('REVOKE %I FROM %I GRANTED BY %I CASCADE', passed_on.role,
        passed_on.member, {name});
    END LOOP;
  END IF;
  FOR passed_on IN
    SELECT DISTINCT o.kind, i.identity, pg_catalog.pg_get_userbyid(a.grantor) AS grantor
    FROM (
      SELECT CASE relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind,
        'pg_catalog.pg_class'::pg_catalog.regclass AS class, oid, relowner AS owner, relacl AS acl
      FROM pg_catalog.pg_class
      UNION ALL SELECT 'TABLE', 'pg_catalog.pg_class'::pg_catalog.regclass, c.oid, c.relowner, t.attacl
      FROM pg_catalog.pg_attribute t JOIN pg_catalog.pg_class c ON c.oid = t.attrelid
      UNION ALL SELECT 'ROUTINE', 'pg_catalog.pg_proc'::pg_catalog.regclass, oid, proowner, proacl
      FROM pg_catalog.pg_proc
      UNION ALL SELECT 'SCHEMA', 'pg_catalog.pg_namespace'::pg_catalog.regclass, oid, nspowner, nspacl
      FROM pg_catalog.pg_namespace
      UNION ALL SELECT 'TYPE', 'pg_catalog.pg_type'::pg_catalog.regclass, oid, typowner, typacl
      FROM pg_catalog.pg_type
      UNION ALL SELECT 'LANGUAGE', 'pg_catalog.pg_language'::pg_catalog.regclass, oid, lanowner, lanacl
      FROM pg_catalog.pg_language
      UNION ALL SELECT 'FOREIGN DATA WRAPPER',
        'pg_catalog.pg_foreign_data_wrapper'::pg_catalog.regclass, oid, fdwowner, fdwacl
      FROM pg_catalog.pg_foreign_data_wrapper
      UNION ALL SELECT 'FOREIGN SERVER', 'pg_catalog.pg_foreign_server'::pg_catalog.regclass,
        oid, srvowner, srvacl
      FROM pg_catalog.pg_foreign_server
      UNION ALL SELECT 'LARGE OBJECT', 'pg_catalog.pg_largeobject'::pg_catalog.regclass,
        oid, lomowner, lomacl
      FROM pg_catalog.pg_largeobject_metadata
      UNION ALL SELECT 'DATABASE', 'pg_catalog.pg_database'::pg_catalog.regclass, oid, datdba, datacl
      FROM pg_catalog.pg_database
      UNION ALL SELECT 'TABLESPACE', 'pg_catalog.pg_tablespace'::pg_catalog.regclass,
        oid, spcowner, spcacl
      FROM pg_catalog.pg_tablespace
    ) o,
    LATERAL pg_catalog.aclexplode(o.acl) a,
    LATERAL pg_catalog.pg_identify_object(o.class, o.oid, 0) i
    WHERE o.acl IS NOT NULL AND a.grantor <> o.owner
      AND a.grantee = (SELECT oid FROM pg_catalog.pg_authid WHERE rolname = {name})
  LOOP
    EXECUTE pg_catalog.format('SET LOCAL ROLE %I', passed_on.grantor);
    EXECUTE pg_catalog.format('REVOKE ALL PRIVILEGES ON %s %s FROM %I CASCADE',
      passed_on.kind, passed_on.identity, {name});
    RESET ROLE;
  END LOOP;
END",
        name = literal(name)
    );
    Script::together([
        format!("REASSIGN OWNED BY {} TO {}", ident(name), ident(heir)),
        format!("DO {}", dollar(&revoke)),
        format!("DROP OWNED BY {}", ident(name)),
    ])
}

/// Without its slot, a subscription can be dropped in a transaction, and the
/// publisher's slot stays for the branch that it belongs to
/// (`compute_tools/src/sql/drop_subscriptions.sql`).
pub(super) fn drop_subscriptions() -> String {
    let body = "DECLARE subscription name;
BEGIN
  LOCK TABLE pg_catalog.pg_subscription IN ACCESS EXCLUSIVE MODE;
  FOR subscription IN
    SELECT s.subname FROM pg_catalog.pg_subscription s
    JOIN pg_catalog.pg_database d ON d.oid = s.subdbid
    WHERE d.datname = pg_catalog.current_database()
  LOOP
    EXECUTE pg_catalog.format('ALTER SUBSCRIPTION %I DISABLE', subscription);
    EXECUTE pg_catalog.format('ALTER SUBSCRIPTION %I SET (slot_name = NONE)', subscription);
    EXECUTE pg_catalog.format('DROP SUBSCRIPTION %I', subscription);
  END LOOP;
END";
    format!("DO {}", dollar(body))
}

/// What `compute_tools/src/sql/set_public_schema_owner.sql` and
/// `default_grants.sql` do. The schema is left alone where its owner is not one of
/// the superusers that `initdb` may have run as.
pub(super) fn prepare_public(owner: &str, privileged_role: &str, creator: Option<&str>) -> String {
    let creator =
        creator.map(|creator| format!("  GRANT CREATE ON SCHEMA public TO {};\n", ident(creator)));
    let body = format!(
        "DECLARE public_owner name;
BEGIN
  SELECT pg_catalog.pg_get_userbyid(nspowner) INTO public_owner
  FROM pg_catalog.pg_namespace WHERE nspname = 'public';
  IF NOT FOUND THEN
    RETURN;
  END IF;
  IF public_owner <> {owner_literal}
    AND public_owner IN ('cloud_admin', 'zenith_admin', session_user) THEN
    ALTER SCHEMA public OWNER TO {owner};
  END IF;
{creator}  ALTER DEFAULT PRIVILEGES IN SCHEMA public
    GRANT ALL ON TABLES TO {privileged_role} WITH GRANT OPTION;
  ALTER DEFAULT PRIVILEGES IN SCHEMA public
    GRANT ALL ON SEQUENCES TO {privileged_role} WITH GRANT OPTION;
END",
        owner_literal = literal(owner),
        owner = ident(owner),
        creator = creator.unwrap_or_default(),
        privileged_role = ident(privileged_role),
    );
    format!("DO {}", dollar(&body))
}
