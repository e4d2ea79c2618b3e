//! `plan`: what applying a spec would do, before it happens. Shows no secret.

mod settings;

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use super::args::PlanArgs;
use super::inspect::{print, read};
use crate::catalog::plan::desired::{Desired, Verifiers};
use crate::catalog::plan::observed::Observed;
use crate::catalog::{self, ApplyOptions, CatalogTarget};
use crate::compute::ending::Ending;
use crate::spec::change::{self, Outline};
use crate::spec::document::Document;
use crate::spec::{ComputeMode, ComputeSpec, report_errors};

/// The version of a fresh cluster, where the spec does not name one.
const NEWEST_MAJOR: u32 = 18;

/// Prints what applying a spec would do.
pub(super) async fn run(args: PlanArgs) -> anyhow::Result<Ending> {
    let secrets_dir = args.secrets_dir.as_deref();
    let Some((spec, notes)) = read_spec(&args.file, secrets_dir)? else {
        return Ok(Ending::SpecInvalid);
    };
    let mut text = String::new();
    for note in notes {
        let _ = writeln!(text, "note: {note}");
    }
    if let Some(from) = &args.from {
        let Some((before, _)) = read_spec(from, secrets_dir)? else {
            return Ok(Ending::SpecInvalid);
        };
        match change::between(&before, &spec) {
            Ok(work) => {
                let _ = write!(
                    text,
                    "\nThe change from {}:\n{}",
                    from.display(),
                    indented(&work)
                );
            }
            Err(errors) => {
                print(&format!("refused:\n{}\n", report_errors(&errors)))?;
                return Ok(Ending::SpecInvalid);
            }
        }
    } else {
        let _ = write!(text, "\nWhen changes take effect:\n{}", Outline(&spec));
    }
    match &args.connstr {
        Some(connstr) => text.push_str(&against_server(connstr, &spec, &args).await?),
        None => text.push_str(&against_nothing(&spec, &args.privileged_role_name)),
    }
    print(text.trim_start())
}

fn read_spec(
    file: &Path,
    secrets_dir: Option<&Path>,
) -> anyhow::Result<Option<(ComputeSpec, Vec<String>)>> {
    match read(file, secrets_dir)? {
        Ok(Document { spec, notes, .. }) => {
            let spec = spec.with_context(|| format!("{} holds no spec", file.display()))?;
            Ok(Some((spec, notes)))
        }
        Err(errors) => {
            let name = file.display();
            print(&format!("{name}: invalid\n{}\n", report_errors(&errors)))?;
            Ok(None)
        }
    }
}

async fn against_server(
    connstr: &str,
    spec: &ComputeSpec,
    args: &PlanArgs,
) -> anyhow::Result<String> {
    let target = CatalogTarget {
        connect: connstr
            .parse()
            .context("--connstr is not a connection string")?,
        privileged_role: args.privileged_role_name.clone(),
        application_name: "glowplug:plan".to_owned(),
    };
    let stated = change::stated_settings(&spec.postgres);
    let changes = settings::compare(&stated, &settings::observe(&target.connect).await?);
    let options = ApplyOptions::default();
    let plan = catalog::preview(&target, spec, &options, &CancellationToken::new()).await?;
    Ok(format!(
        "\nSettings of the running postgres:\n{}\nRoles and databases:\n{}",
        indented(changes),
        indented(catalog_text(spec, &plan)),
    ))
}

/// On a cluster as `initdb` leaves it.
fn against_nothing(spec: &ComputeSpec, privileged_role: &str) -> String {
    let major = spec.postgres.version.unwrap_or(NEWEST_MAJOR);
    let observed = Observed::fresh("cloud_admin", major);
    let verifiers = verifiers(spec);
    let desired = Desired::new(spec, privileged_role, &verifiers);
    let plan = catalog::plan::plan(&observed, &desired);
    format!(
        "\nRoles and databases, on a fresh PostgreSQL {major}:\n{}",
        indented(catalog_text(spec, &plan)),
    )
}

/// Stand-ins: a plan does not show them, and passwords may be slow to turn into them.
fn verifiers(spec: &ComputeSpec) -> Verifiers {
    let with_password = spec.roles.iter().filter(|role| role.password.is_some());
    with_password
        .map(|role| (role.name.clone(), catalog::password::stand_in()))
        .collect()
}

fn catalog_text(spec: &ComputeSpec, plan: &catalog::Plan) -> String {
    match catalog::concerns(spec) {
        false if spec.mode != ComputeMode::Primary => {
            "left alone: only a Primary writes\n".to_owned()
        }
        false => "left alone, as skipCatalogUpdates says\n".to_owned(),
        true => plan.to_string(),
    }
}

fn indented(text: impl std::fmt::Display) -> String {
    let text = text.to_string();
    text.lines().fold(String::new(), |mut all, line| {
        let _ = writeln!(all, "  {line}");
        all
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{no_secrets, parse_document};

    const EXAMPLE: &str = include_str!("../../examples/compute.yaml");

    #[test]
    fn the_plan_of_a_fresh_start_reads_well() {
        let spec = parse_document(EXAMPLE, &no_secrets).unwrap().spec.unwrap();
        let text = format!(
            "{}{}",
            Outline(&spec),
            against_nothing(&spec, "neon_superuser")
        );
        insta::assert_snapshot!(text);
    }

    #[test]
    fn the_plan_of_a_change_reads_well() {
        let before = parse_document(EXAMPLE, &no_secrets).unwrap().spec.unwrap();
        let mut spec = before.clone();
        spec.mode = ComputeMode::Replica;
        spec.roles.pop();
        spec.safekeepers.endpoints.pop();
        for (name, value) in [("work_mem", "9MB"), ("max_connections", "33")] {
            spec.postgres.settings.push(crate::spec::Setting {
                name: name.to_owned(),
                value: Some(value.to_owned()),
                is_string: false,
            });
        }
        spec.neon.features.push("tls_experimental".to_owned());
        let work = change::between(&before, &spec).unwrap();
        insta::assert_snapshot!(work.to_string());
    }
}
