//! `crd` and `validate`: what can be said without running or asking anything.

use std::io::{Read as _, Write as _};
use std::path::Path;

use anyhow::Context as _;

use super::args::ValidateArgs;
use crate::compute::ending::Ending;
use crate::secret::Secret;
use crate::source;
use crate::spec::document::{self, Document};
use crate::spec::{Errors, SecretError, Secrets, crd_yaml, report_errors};

/// Stands for a Secret of which it is not known whether it exists.
const NOT_LOOKED_UP: &str = "(not looked up)";

/// Whether [`read`] knew the Secret.
pub(super) fn was_looked_up(secret: &Secret) -> bool {
    secret.reveal() != NOT_LOOKED_UP
}

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

/// Reads a document, `-` from standard input.
pub(super) fn read(
    file: &Path,
    secrets_dir: Option<&Path>,
) -> anyhow::Result<Result<Document, Errors>> {
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
    let unknown = |_: &str, _: &str| Ok::<_, SecretError>(Secret::new(NOT_LOOKED_UP));
    let secrets: &Secrets<'_> = if secrets_dir.is_some() {
        &from_directory
    } else {
        &unknown
    };
    Ok(document::parse(&text, secrets))
}

/// Prints to stdout.
pub(super) fn print(text: &str) -> anyhow::Result<Ending> {
    std::io::stdout()
        .lock()
        .write_all(text.as_bytes())
        .context("cannot write to stdout")?;
    Ok(Ending::Stopped)
}
