//! `POST /extensions` installs an extension in a database; `POST /extension_server/…`
//! would download its files (`compute_tools/src/http/routes/extensions.rs`,
//! `extension_server.rs`).

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Internal;
use crate::catalog::visit::extensions;
use crate::http::api::{Api, Content, Operation, json};
use crate::http::body;
use crate::http::postgres::{LIMIT, failed};
use crate::http::respond;

/// `ExtensionInstallRequest` (`libs/compute_api/src/requests.rs`).
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "ExtensionInstallRequest")]
struct Wanted {
    extension: String,
    database: String,
    version: String,
}

/// `ExtensionInstallResponse` (`libs/compute_api/src/responses.rs`).
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ExtensionInstallResponse")]
struct Installed {
    extension: String,
    version: String,
}

pub(super) fn routes(api: Api<Internal>) -> Api<Internal> {
    let install = Operation::new("installExtension", "Make a database have an extension")
        .body::<Wanted>(64 * 1024)
        .answers(
            StatusCode::CREATED,
            "It has it, in this version",
            json::<Installed>(),
        )
        .fails(StatusCode::NOT_FOUND, "There is no such database")
        .fails(StatusCode::PRECONDITION_FAILED, "Not in this state")
        .fails(
            StatusCode::INTERNAL_SERVER_ERROR,
            "It could not be installed",
        );
    let any = || json!({"type": "string", "minLength": 1});
    let download = Operation::new("downloadExtension", "Fetch the files of an extension")
        .path(
            "filename",
            any(),
            "Name of the extension, or of a file of its library",
        )
        .query(
            "is_library",
            false,
            json!({"type": "boolean"}),
            "It is a library's file",
        )
        .answers(StatusCode::NOT_FOUND, "Nothing is named", Content::Empty)
        .fails(StatusCode::BAD_REQUEST, "The query is not usable")
        .fails(
            StatusCode::PRECONDITION_FAILED,
            "There is no store of extensions",
        )
        .fails(StatusCode::NOT_IMPLEMENTED, "glowplug cannot do this yet");
    api.route(
        "/extensions",
        &Method::POST,
        post(install_extension),
        &install,
    )
    .route(
        "/extension_server/{*filename}",
        &Method::POST,
        post(download_extension),
        &download,
    )
}

async fn install_extension(
    State(internal): State<Internal>,
    body::Json(wanted): body::Json<Wanted>,
) -> Response {
    let admitted = match internal.gate.when_running("an extension").await {
        Ok(admitted) => admitted,
        Err(response) => return response,
    };
    let Wanted {
        extension,
        database,
        version,
    } = wanted;
    let installed =
        extensions::install(&admitted.target, &database, &extension, &version, LIMIT).await;
    match installed {
        Ok(version) => {
            let installed = Installed { extension, version };
            (StatusCode::CREATED, Json(installed)).into_response()
        }
        Err(error) => failed(&error, Some("failed to install extension")),
    }
}

/// The query of a download.
#[derive(Deserialize)]
struct Parameters {
    #[serde(default, rename = "is_library")]
    _is_library: bool,
}

async fn download_extension(
    State(internal): State<Internal>,
    query: Result<Query<Parameters>, QueryRejection>,
) -> Response {
    if let Err(rejection) = query {
        let text = rejection.body_text().to_lowercase();
        return respond::error(StatusCode::BAD_REQUEST, &text);
    }
    if internal.remote_extensions {
        respond::not_implemented("/extension_server", "downloads of extensions")
    } else {
        respond::error(
            StatusCode::PRECONDITION_FAILED,
            "remote storage is not configured",
        )
    }
}
