//! Routes that describe themselves: the router and the OpenAPI document are made from
//! one table, so that `GET /openapi.json` says exactly what is served.
//!
//! A route is a method, a handler and an [`Operation`]. The operation holds what the
//! document says (parameters, body, answers) together with what is enforced (who may
//! call it, how long it may take, how large its body may be).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{MethodRouter, get};
use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};

use super::auth::Authorizer;
use super::respond::{self, ErrorBody};

/// How long most requests may take.
const LIMIT: Duration = Duration::from_secs(30);

/// Largest body of most requests. Upstream takes 2 MiB for all.
const MAX_BODY: usize = 64 * 1024;

/// What a part of an operation looks like; asks the generator for shared schemas.
type MakeSchema = fn(&mut SchemaGenerator) -> Schema;

/// The body of an answer.
pub(super) enum Content {
    /// There is none.
    Empty,
    /// JSON of this form.
    Json(MakeSchema),
    /// Text of this media type.
    Text(&'static str),
}

/// JSON that `T` is written as.
pub(super) fn json<T: JsonSchema>() -> Content {
    Content::Json(SchemaGenerator::subschema_for::<T>)
}

/// A parameter of the path or the query.
pub(super) struct Parameter {
    name: &'static str,
    place: &'static str,
    required: bool,
    schema: Value,
    about: &'static str,
}

/// What a route does, takes and answers, and its limits.
pub(super) struct Operation {
    id: &'static str,
    summary: &'static str,
    open: bool,
    limit: Duration,
    max_body: usize,
    parameters: Vec<Parameter>,
    body: Option<MakeSchema>,
    answers: Vec<(StatusCode, &'static str, Content)>,
}

impl Operation {
    /// An operation under upstream's `operationId`, where upstream has one
    /// (`compute_tools/src/http/openapi_spec.yaml`).
    pub(super) fn new(id: &'static str, summary: &'static str) -> Self {
        Self {
            id,
            summary,
            open: false,
            limit: LIMIT,
            max_body: MAX_BODY,
            parameters: Vec::new(),
            body: None,
            answers: Vec::new(),
        }
    }

    /// One more answer.
    pub(super) fn answers(mut self, code: StatusCode, about: &'static str, with: Content) -> Self {
        self.answers.push((code, about, with));
        self
    }

    /// An answer with [`ErrorBody`].
    pub(super) fn fails(self, code: StatusCode, about: &'static str) -> Self {
        self.answers(code, about, json::<ErrorBody>())
    }

    /// Nobody is asked for a token.
    pub(super) fn open(mut self) -> Self {
        self.open = true;
        self
    }

    /// Longer or shorter than usual. The handler's own limit, if it has one, is to end
    /// first: its answer says more.
    pub(super) fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// A parameter of the query.
    pub(super) fn query(
        self,
        name: &'static str,
        required: bool,
        schema: Value,
        about: &'static str,
    ) -> Self {
        self.parameter("query", name, required, schema, about)
    }

    /// A parameter of the path.
    pub(super) fn path(self, name: &'static str, schema: Value, about: &'static str) -> Self {
        self.parameter("path", name, true, schema, about)
    }

    fn parameter(
        mut self,
        place: &'static str,
        name: &'static str,
        required: bool,
        schema: Value,
        about: &'static str,
    ) -> Self {
        self.parameters.push(Parameter {
            name,
            place,
            required,
            schema,
            about,
        });
        self
    }

    /// A JSON body of at most so many bytes, with the refusals that it may meet.
    pub(super) fn body<T: JsonSchema>(mut self, max: usize) -> Self {
        self.body = Some(SchemaGenerator::subschema_for::<T>);
        self.max_body = max;
        self.fails(
            StatusCode::BAD_REQUEST,
            "The body is not JSON, or not usable",
        )
        .fails(
            StatusCode::REQUEST_TIMEOUT,
            "The body did not arrive in time",
        )
        .fails(StatusCode::PAYLOAD_TOO_LARGE, "The body is too large")
        .fails(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "The body is not said to be JSON",
        )
        .fails(
            StatusCode::UNPROCESSABLE_ENTITY,
            "The JSON is not of the form that is asked for",
        )
    }

    fn describe(&self, schemas: &mut SchemaGenerator, tokens: bool) -> Value {
        let mut operation = json!({"operationId": self.id, "summary": self.summary});
        if !self.parameters.is_empty() {
            let parameters = self.parameters.iter().map(|parameter| {
                json!({
                    "name": parameter.name, "in": parameter.place,
                    "required": parameter.required, "schema": parameter.schema,
                    "description": parameter.about,
                })
            });
            operation["parameters"] = parameters.collect();
        }
        if let Some(body) = self.body {
            let schema = body(schemas);
            operation["requestBody"] =
                json!({"required": true, "content": {"application/json": {"schema": schema}}});
        }
        let mut answers = Map::new();
        for (code, about, content) in &self.answers {
            answers.insert(code.as_u16().to_string(), describe(about, content, schemas));
        }
        let error = json::<ErrorBody>();
        let mut also = vec![
            (
                "503",
                "Too many requests are under way, or the compute ends",
            ),
            ("504", "It took too long; it may still come about"),
        ];
        if tokens && !self.open {
            operation["security"] = json!([{"token": []}]);
            also.push(("401", "No token that is valid here"));
            also.push(("403", "The token is for another compute"));
        }
        for (code, about) in also {
            let answer = describe(about, &error, schemas);
            answers.entry(code).or_insert(answer);
        }
        operation["responses"] = answers.into();
        operation
    }
}

fn describe(about: &str, content: &Content, schemas: &mut SchemaGenerator) -> Value {
    match content {
        Content::Empty => json!({"description": about}),
        Content::Json(schema) => {
            let schema = schema(schemas);
            json!({"description": about, "content": {"application/json": {"schema": schema}}})
        }
        Content::Text(media_type) => {
            json!({"description": about, "content": {*media_type: {"schema": {"type": "string"}}}})
        }
    }
}

/// Routes, and the document that describes them.
pub(super) struct Api<S> {
    router: Router<S>,
    authorizer: Option<Arc<Authorizer>>,
    about: &'static str,
    paths: Map<String, Value>,
    schemas: SchemaGenerator,
    documented: BTreeSet<Documented>,
}

/// A route as axum matches it, a method and a code that it may answer.
type Documented = (String, Method, StatusCode);

impl<S: Clone + Send + Sync + 'static> Api<S> {
    /// No routes yet. Without an authorizer nobody is asked for a token.
    pub(super) fn new(about: &'static str, authorizer: Option<Arc<Authorizer>>) -> Self {
        let mut settings = SchemaSettings::draft2020_12();
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
        Self {
            router: Router::new(),
            authorizer,
            about,
            paths: Map::new(),
            schemas: settings.into_generator(),
            documented: BTreeSet::new(),
        }
    }

    /// Adds a route. `handler` serves this one method: `get(…)`, `post(…)`, `delete(…)`.
    pub(super) fn route(
        mut self,
        path: &'static str,
        method: &Method,
        handler: MethodRouter<S>,
        operation: &Operation,
    ) -> Self {
        let limit = operation.limit;
        let mut handler = handler.route_layer(DefaultBodyLimit::max(operation.max_body));
        handler = handler.route_layer(middleware::from_fn_with_state(limit, within));
        if let Some(authorizer) = self.authorizer.clone().filter(|_| !operation.open) {
            // Per route, so that a wrong method is 405 with or without a token.
            handler = handler.route_layer(middleware::from_fn_with_state(authorizer, authorize));
        }
        self.router = self.router.route(path, handler);
        let described = operation.describe(&mut self.schemas, self.authorizer.is_some());
        for code in described["responses"]
            .as_object()
            .into_iter()
            .flat_map(Map::keys)
        {
            if let Ok(code) = StatusCode::from_bytes(code.as_bytes()) {
                self.documented
                    .insert((path.to_owned(), method.clone(), code));
            }
        }
        let item = self
            .paths
            .entry(path.replace("{*", "{"))
            .or_insert(json!({}));
        item[method.as_str().to_ascii_lowercase()] = described;
        self
    }

    /// The router, with the document at `/openapi.json`.
    pub(super) fn into_router(mut self, state: S) -> (Router, Answers) {
        let operation = Operation::new("openApi", "This document").open().answers(
            StatusCode::OK,
            "An OpenAPI document",
            Content::Json(|_| schemars::json_schema!({"type": "object"})),
        );
        let described = operation.describe(&mut self.schemas, true);
        self.paths
            .insert("/openapi.json".to_owned(), json!({"get": described}));
        let mut document = json!({
            "openapi": "3.1.0",
            "info": {
                "title": "glowplug compute",
                "description": self.about,
                "version": env!("CARGO_PKG_VERSION"),
            },
            "paths": self.paths,
            "components": {"schemas": self.schemas.take_definitions(true)},
        });
        if self.authorizer.is_some() {
            document["components"]["securitySchemes"] =
                json!({"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}});
        }
        let document = Arc::new(document);
        let served = get(move || {
            let document = document.clone();
            async move { axum::Json(document) }
        });
        let router = self.router.route("/openapi.json", served);
        (router.with_state(state), Answers(self.documented))
    }
}

/// Which codes the document says of which routes.
pub(super) struct Answers(BTreeSet<Documented>);

impl Answers {
    /// Whether the document says that this may be answered. Of routes that it does not
    /// know it says nothing.
    #[cfg_attr(not(test), expect(dead_code, reason = "a rule that tests check"))]
    pub(super) fn allow(&self, route: &str, method: &Method, code: StatusCode) -> bool {
        let method = if method == Method::HEAD {
            Method::GET
        } else {
            method.clone()
        };
        let known = self
            .0
            .iter()
            .any(|(path, known, _)| path == route && *known == method);
        !known || self.0.contains(&(route.to_owned(), method, code))
    }
}

/// Ends a request that takes too long, and tells its client so.
async fn within(State(limit): State<Duration>, request: Request, next: Next) -> Response {
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => respond::error(
            StatusCode::GATEWAY_TIMEOUT,
            &format!("the request took longer than {limit:?}"),
        ),
    }
}

async fn authorize(
    State(authorizer): State<Arc<Authorizer>>,
    request: Request,
    next: Next,
) -> Response {
    match authorizer.authorize(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(denied) => denied.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use hyper::service::Service as _;
    use hyper_util::service::TowerToHyperService;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_request_that_takes_too_long_is_answered() {
        let never = || async { std::future::pending::<StatusCode>().await };
        let operation = Operation::new("never", "Never ends").within(Duration::from_secs(5));
        let api = Api::<()>::new("a test", None);
        let (router, answers) = api
            .route("/", &Method::GET, get(never), &operation)
            .into_router(());
        let request = Request::new(axum::body::Body::empty());
        let response = TowerToHyperService::new(router)
            .call(request)
            .await
            .unwrap();
        assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
        assert!(answers.allow("/", &Method::GET, response.status()));
        assert!(!answers.allow("/", &Method::GET, StatusCode::IM_A_TEAPOT));
    }
}
