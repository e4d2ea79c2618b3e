//! `crd`, `validate` and `plan`: what can be said without running anything.

use std::io::{Read as _, Write as _};
use std::path::Path;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use super::args::{PlanArgs, ValidateArgs};
use crate::catalog::{self, ApplyOptions, CatalogTarget};
use crate::compute::ending::Ending;
use crate::source;
use crate::spec::document::{self, Document};
use crate::spec::{Errors, SecretError, Secrets, crd_yaml, report_errors};

/// Prints the CustomResourceDefinition.
pub(super) fn print_crd() -> anyhow::Result<Ending> {
    print(&crd_yaml())
}

/// Checks each file, and says what is wrong with which field.
pub(super) fn validate(args: &ValidateArgs) -> anyhow::Result<Ending> {
    let mut ending = Ending::Stopped;
    for file in &args.files {
        let name = file.display();
        match read(file, args.secrets_dir.as_deref())? {
            Ok(document) => {
                print(&format!("{name}: valid\n"))?;
                for note in &document.notes {
                    print(&format!("  note: {note}\n"))?;
                }
            }
            Err(errors) => {
                ending = Ending::SpecInvalid;
                print(&format!("{name}: invalid\n{}\n", report_errors(&errors)))?;
            }
        }
    }
    Ok(ending)
}

/// Shows what applying a spec would do to the catalog of a running postgres.
pub(super) async fn plan(args: PlanArgs) -> anyhow::Result<Ending> {
    let document = match read(&args.file, args.secrets_dir.as_deref())? {
        Ok(document) => document,
        Err(errors) => {
            let name = args.file.display();
            print(&format!("{name}: invalid\n{}\n", report_errors(&errors)))?;
            return Ok(Ending::SpecInvalid);
        }
    };
    let spec = document
        .spec
        .with_context(|| format!("{} holds no spec", args.file.display()))?;
    let target = CatalogTarget {
        connect: args
            .connstr
            .parse()
            .context("--connstr is not a connection string")?,
        privileged_role: catalog::DEFAULT_PRIVILEGED_ROLE.to_owned(),
        application_name: "glowplug:plan".to_owned(),
    };
    let options = ApplyOptions::default();
    let plan = catalog::preview(&target, &spec, &options, &CancellationToken::new()).await?;
    print(&plan.to_string())
}

fn read(file: &Path, secrets_dir: Option<&Path>) -> anyhow::Result<Result<Document, Errors>> {
    let mut text = String::new();
    if file == Path::new("-") {
        std::io::stdin()
            .read_to_string(&mut text)
            .context("cannot read standard input")?;
    } else {
        text = std::fs::read_to_string(file)
            .with_context(|| format!("cannot read {}", file.display()))?;
    }
    let from_directory = |name: &str, key: &str| source::secret_in(secrets_dir, name, key);
    // Without a directory it is not known whether a Secret exists: that is not the
    // document's fault.
    let unknown = |_: &str, _: &str| Ok::<_, SecretError>(crate::secret::Secret::new("unknown"));
    let secrets: &Secrets<'_> = if secrets_dir.is_some() {
        &from_directory
    } else {
        &unknown
    };
    Ok(document::parse(&text, secrets))
}

fn print(text: &str) -> anyhow::Result<Ending> {
    std::io::stdout()
        .lock()
        .write_all(text.as_bytes())
        .context("cannot write to stdout")?;
    Ok(Ending::Stopped)
}
