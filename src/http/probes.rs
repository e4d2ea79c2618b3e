//! The kubelet's probes: answered from the snapshot alone, never by asking postgres,
//! storage or the API server. A restart mends none of those.
//!
//! They have a thread of their own, and answer while everything else is stuck.
//!
//! - `/startupz` and `/livez` (`/healthz`): the process is up, its threads get on, and
//!   its owning task takes requests. A start-up that waits for storage is alive, and so is one that failed:
//!   the supervisor itself decides when to give up.
//! - `/readyz`: clients may be sent here, which is the condition `Ready`.
//!
//! With `?verbose` each check is listed, in the form of the API server's own health
//! endpoints; `?exclude=NAME` leaves one out. Reasons are tokens: nobody is
//! authenticated here.

pub(super) mod thread;

use std::fmt::Write as _;

use axum::extract::{RawQuery, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use serde_json::json;

use super::api::{Api, Content, Operation};
use super::owner::Owner;
use crate::api::status::ConditionStatus;
use crate::report::conditions;

/// All routes. Nobody is asked for a token.
pub(super) fn api() -> Api<Owner> {
    const ABOUT: &str = "Probes of a compute, in the form of Kubernetes' own";
    let operation = |id, summary| {
        let flag = || json!({"type": "string"});
        Operation::new(id, summary)
            .query("verbose", false, flag(), "List the checks also if all pass")
            .query("exclude", false, flag(), "Leave out the check of this name")
            .answers(StatusCode::OK, "It is so", Content::Text("text/plain"))
            .answers(
                StatusCode::SERVICE_UNAVAILABLE,
                "It is not; the checks are listed",
                Content::Text("text/plain"),
            )
    };
    let live = |name| {
        move |State(owner): State<Owner>, RawQuery(query): RawQuery| async move {
            answer(name, &[supervisor(&owner)], query.as_deref())
        }
    };
    let ready = |State(owner): State<Owner>, RawQuery(query): RawQuery| async move {
        let checks = [supervisor(&owner), compute(&owner)];
        answer("readyz", &checks, query.as_deref())
    };
    let (started, lives) = ("The process is up", "The process works");
    Api::new(ABOUT, None)
        .route(
            "/livez",
            &Method::GET,
            get(live("livez")),
            &operation("livez", lives),
        )
        .route(
            "/healthz",
            &Method::GET,
            get(live("healthz")),
            &operation("healthz", lives),
        )
        .route(
            "/startupz",
            &Method::GET,
            get(live("startupz")),
            &operation("startupz", started),
        )
        .route(
            "/readyz",
            &Method::GET,
            get(ready),
            &operation("readyz", "Clients may be sent here"),
        )
}

/// A check by its name, with the reason of its failure.
type Check = (&'static str, Result<(), &'static str>);

fn supervisor(owner: &Owner) -> Check {
    ("supervisor", owner.is_responsive())
}

fn compute(owner: &Owner) -> Check {
    let (status, reason, _) = conditions::readiness(&owner.snapshot());
    let ready = status == ConditionStatus::True;
    ("compute", if ready { Ok(()) } else { Err(reason) })
}

fn answer(probe: &str, checks: &[Check], query: Option<&str>) -> Response {
    let (status, text) = render(probe, checks, query.unwrap_or_default());
    (status, text).into_response()
}

/// As `k8s.io/apiserver/pkg/server/healthz` renders its checks.
fn render(probe: &str, checks: &[Check], query: &str) -> (StatusCode, String) {
    let mut verbose = false;
    let mut excluded = Vec::new();
    for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
        match key.as_ref() {
            "verbose" => verbose = true,
            "exclude" => excluded.push(value.into_owned()),
            _ => {}
        }
    }
    let mut listing = String::new();
    let mut passed = true;
    for (name, result) in checks {
        let excluded = excluded.iter().any(|excluded| excluded == name);
        let (mark, outcome) = match result {
            _ if excluded => ('+', " excluded: ok".to_owned()),
            Ok(()) => ('+', " ok".to_owned()),
            Err(reason) => ('-', format!(" failed: {reason}")),
        };
        passed &= mark == '+';
        let _ = writeln!(listing, "[{mark}]{name}{outcome}");
    }
    if !passed {
        // Why a probe fails is always of interest.
        let text = format!("{listing}{probe} check failed\n");
        return (StatusCode::SERVICE_UNAVAILABLE, text);
    }
    let text = if verbose {
        format!("{listing}{probe} check passed\n")
    } else {
        "ok".to_owned()
    };
    (StatusCode::OK, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHECKS: [Check; 2] = [("supervisor", Ok(())), ("compute", Err("StartingUp"))];

    #[test]
    fn each_check_is_listed_as_kubernetes_does() {
        let (status, text) = render("readyz", &CHECKS, "verbose");
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(
            text,
            "[+]supervisor ok\n[-]compute failed: StartingUp\nreadyz check failed\n"
        );
        let (status, text) = render("livez", &CHECKS[..1], "verbose=1");
        assert_eq!(status, StatusCode::OK);
        assert_eq!(text, "[+]supervisor ok\nlivez check passed\n");
    }

    #[test]
    fn an_excluded_check_does_not_count() {
        let (status, text) = render("readyz", &CHECKS, "exclude=compute&exclude=other");
        assert_eq!((status, text.as_str()), (StatusCode::OK, "ok"));
    }
}
