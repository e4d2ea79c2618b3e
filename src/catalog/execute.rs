//! Carries plans out: stage after stage, side by side where steps allow it.
//!
//! Changes that may share a transaction are sent several at a time: a commit waits for
//! the safekeepers' quorum, and a message for the server. If such a batch fails, its
//! changes are sent again one by one, so that one bad object does not hold up others.

mod job;
mod outcome;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures::future::join_all;
use job::{BATCH, Job, jobs};
use outcome::{Failure, Outcome};
use tokio_postgres::error::Severity;

use super::plan::change::Object;
use super::plan::observed::Observed;
use super::plan::{Plan, Step};
use super::session::{Interrupted, RETRIES, RETRY_WAITS, RunError, Session, Stop, is_transient};
use super::sql::{Script, script};
use super::{Applied, ApplyOptions, CatalogTarget, Error};
use crate::backoff::Backoff;
use crate::error::chain;

/// Of the server's connections, glowplug takes at most one in this many.
const SHARE: usize = 3;

/// Carries out `plan`, which was made of `observed` as seen by `main`.
pub(super) async fn execute(
    target: &CatalogTarget,
    options: &ApplyOptions,
    observed: &Observed,
    main: &Session,
    plan: &Plan,
    stop: &Stop,
) -> Result<Applied, Error> {
    let executor = Executor {
        target,
        options,
        stop,
        main,
        major: observed.major(),
        width: options
            .concurrency
            .min(observed.max_connections / SHARE)
            .max(1),
        total: plan.steps.len(),
        done: AtomicUsize::new(0),
        missing: Mutex::default(),
        spare: Mutex::default(),
    };
    let mut outcomes = Vec::with_capacity(plan.steps.len());
    let mut finished = Ok(());
    for steps in plan.steps.chunk_by(|a, b| a.stage == b.stage) {
        finished = executor.run_stage(steps, &mut outcomes).await;
        if finished.is_err() {
            break;
        }
    }
    executor.close().await;
    finished?;
    Ok(outcome::summary(plan, &main.database, outcomes))
}

/// What is in there stays whole even if a holder panicked: it is never changed in parts.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Executor<'e> {
    target: &'e CatalogTarget,
    options: &'e ApplyOptions,
    stop: &'e Stop,
    main: &'e Session,
    major: u32,
    /// Most connections at a time.
    width: usize,
    total: usize,
    done: AtomicUsize,
    /// Objects that are not there, as a step that was to provide them failed.
    missing: Mutex<BTreeSet<Object>>,
    /// Idle sessions of the main session's database.
    spare: Mutex<Vec<Session>>,
}

impl Executor<'_> {
    async fn run_stage<'a>(
        &self,
        steps: &'a [Step],
        outcomes: &mut Vec<Outcome<'a>>,
    ) -> Result<(), Error> {
        let jobs = jobs(steps);
        let next = AtomicUsize::new(0);
        let is_parallel = steps.first().is_some_and(|step| step.stage.is_parallel());
        let width = if is_parallel { self.width } else { 1 };
        let workers = (0..width.min(jobs.len())).map(|number| {
            let (jobs, next) = (&jobs, &next);
            async move {
                let mut outcomes = Vec::new();
                let finished = self.work(number, jobs, next, &mut outcomes).await;
                if finished.is_err() {
                    // Nobody needs to begin another one.
                    next.store(jobs.len(), Ordering::Relaxed);
                }
                (finished, outcomes)
            }
        });
        let mut result = Ok(());
        for (finished, part) in join_all(workers).await {
            outcomes.extend(part);
            result = result.and(finished);
        }
        result
    }

    /// Takes one job after the other until none is left.
    async fn work<'a>(
        &self,
        number: usize,
        jobs: &[Job<'a>],
        next: &AtomicUsize,
        outcomes: &mut Vec<Outcome<'a>>,
    ) -> Result<(), Error> {
        let mut own: Option<Session> = None;
        while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            match job.database {
                Some(database) => self.run_inside(database, job, outcomes).await?,
                None if number == 0 => self.run_job(self.main, job, outcomes).await?,
                None => {
                    if own.is_none() {
                        own = self.spare_session().await?;
                    }
                    let session = own.as_ref().unwrap_or(self.main);
                    self.run_job(session, job, outcomes).await?;
                }
            }
        }
        locked(&self.spare).extend(own);
        Ok(())
    }

    /// Another session in the database of the main one. `None` if the server has none to
    /// give, which only makes it slower.
    async fn spare_session(&self) -> Result<Option<Session>, Error> {
        let spare = locked(&self.spare).pop();
        if spare.is_some() {
            return Ok(spare);
        }
        match self.connect(&self.main.database).await {
            Ok(session) => Ok(Some(session)),
            Err(RunError::Sql(error)) if is_transient(&error) => Ok(None),
            Err(error) => Err(self.ended(error)),
        }
    }

    /// What to end with when the main database is out of reach, or time is up.
    fn ended(&self, error: RunError) -> Error {
        match error {
            RunError::Interrupted(why) => self.interrupted(why),
            RunError::Sql(source) => Error::Connect {
                database: self.main.database.clone(),
                source,
            },
        }
    }

    async fn connect(&self, database: &str) -> Result<Session, RunError> {
        let (target, options) = (self.target, self.options);
        Session::connect(target, Some(database), options, self.major, self.stop).await
    }

    /// Carries out a job in a database of its own.
    async fn run_inside<'a>(
        &self,
        database: &str,
        job: &Job<'a>,
        outcomes: &mut Vec<Outcome<'a>>,
    ) -> Result<(), Error> {
        let (blocked, free): (Vec<&Step>, Vec<&Step>) = job
            .steps
            .iter()
            .partition(|step| self.blocker(step).is_some());
        for step in blocked {
            self.settle(
                outcomes,
                step,
                Err(Failure::blocked(step, self.blocker(step))),
            );
        }
        if free.is_empty() {
            return Ok(());
        }
        let session = match self.connect(database).await {
            Ok(session) => session,
            Err(RunError::Interrupted(why)) => return Err(self.interrupted(why)),
            Err(RunError::Sql(error)) => {
                for step in free {
                    self.settle(outcomes, step, Err(Failure::of(&error)));
                }
                return Ok(());
            }
        };
        let job = Job {
            database: None,
            steps: free,
        };
        let finished = self.run_job(&session, &job, outcomes).await;
        session.close().await;
        let Err(Error::ConnectionLost { source, .. }) = finished else {
            return finished;
        };
        // It is this database's trouble: others need not suffer.
        for step in job.steps {
            if !outcomes
                .iter()
                .any(|outcome| std::ptr::eq(outcome.step, step))
            {
                self.settle(outcomes, step, Err(Failure::of(&source)));
            }
        }
        Ok(())
    }

    async fn run_job<'a>(
        &self,
        session: &Session,
        job: &Job<'a>,
        outcomes: &mut Vec<Outcome<'a>>,
    ) -> Result<(), Error> {
        let mut batch: Vec<(&'a Step, Script)> = Vec::new();
        for step in &job.steps {
            if self.blocker(step).is_some() {
                self.settle(
                    outcomes,
                    step,
                    Err(Failure::blocked(step, self.blocker(step))),
                );
                continue;
            }
            let script = script(&step.change);
            if script.in_transaction {
                batch.push((step, script));
                if batch.len() < BATCH {
                    continue;
                }
                self.run_batch(session, &mut batch, outcomes).await?;
            } else {
                self.run_batch(session, &mut batch, outcomes).await?;
                self.run_step(session, step, &script, outcomes).await?;
            }
        }
        self.run_batch(session, &mut batch, outcomes).await
    }

    /// Carries out all of `batch` in one transaction or, failing that, one by one.
    async fn run_batch<'a>(
        &self,
        session: &Session,
        batch: &mut Vec<(&'a Step, Script)>,
        outcomes: &mut Vec<Outcome<'a>>,
    ) -> Result<(), Error> {
        let batch = std::mem::take(batch);
        if batch.len() > 1 {
            let statements = batch.iter().flat_map(|(_, script)| &script.statements);
            let sql = statements
                .map(String::as_str)
                .collect::<Vec<_>>()
                .join(";\n");
            if self.send(session, &sql).await?.is_ok() {
                for (step, script) in &batch {
                    self.settle(outcomes, step, Ok(script.statements.len()));
                }
                return Ok(());
            }
        }
        for (step, script) in &batch {
            self.run_step(session, step, script, outcomes).await?;
        }
        Ok(())
    }

    async fn run_step<'a>(
        &self,
        session: &Session,
        step: &'a Step,
        script: &Script,
        outcomes: &mut Vec<Outcome<'a>>,
    ) -> Result<(), Error> {
        if self.blocker(step).is_some() {
            self.settle(
                outcomes,
                step,
                Err(Failure::blocked(step, self.blocker(step))),
            );
            return Ok(());
        }
        let messages = if script.in_transaction {
            vec![script.statements.join(";\n")]
        } else {
            script.statements.clone()
        };
        let mut backoff = Backoff::new(RETRY_WAITS.0, RETRY_WAITS.1);
        let mut done = 0;
        let result = loop {
            if script.evicts {
                done = 0;
            }
            match self.send_all(session, &messages, &mut done).await? {
                Err(error) if is_transient(&error) && backoff.attempts() < RETRIES => {
                    tracing::debug!(change = %step.change, "try again: {}", chain(&error));
                    let wait = backoff.next(rand::random());
                    self.stop
                        .sleep(wait)
                        .await
                        .map_err(|error| self.ended(error))?;
                }
                result => break result,
            }
        };
        let result = result.map(|()| script.statements.len());
        self.settle(outcomes, step, result.map_err(|error| Failure::of(&error)));
        Ok(())
    }

    /// Sends the messages behind the first `done` ones, and counts those that succeed.
    async fn send_all(
        &self,
        session: &Session,
        messages: &[String],
        done: &mut usize,
    ) -> Result<Result<(), tokio_postgres::Error>, Error> {
        for message in messages.iter().skip(*done) {
            if let Err(error) = self.send(session, message).await? {
                return Ok(Err(error));
            }
            *done += 1;
        }
        Ok(Ok(()))
    }

    /// The inner result is the server's word on the statements; without the server or
    /// time, there is the outer error.
    async fn send(
        &self,
        session: &Session,
        sql: &str,
    ) -> Result<Result<(), tokio_postgres::Error>, Error> {
        match session.run(sql, self.stop).await {
            Ok(()) => Ok(Ok(())),
            Err(RunError::Interrupted(why)) => Err(self.interrupted(why)),
            Err(RunError::Sql(error)) if is_about_statement(&error) => Ok(Err(error)),
            Err(RunError::Sql(source)) => Err(Error::ConnectionLost {
                database: session.database.clone(),
                source,
            }),
        }
    }

    fn interrupted(&self, why: Interrupted) -> Error {
        self.stop
            .error(why, self.done.load(Ordering::Relaxed), self.total)
    }

    /// An object that `step` cannot do without, but has to.
    fn blocker(&self, step: &Step) -> Option<Object> {
        let missing = locked(&self.missing);
        if missing.is_empty() {
            return None;
        }
        let place = step.database.clone().map(Object::Database);
        let mut needs = step.change.needs().into_iter().chain(place);
        needs.find(|object| missing.contains(object))
    }

    fn settle<'a>(
        &self,
        outcomes: &mut Vec<Outcome<'a>>,
        step: &'a Step,
        result: Result<usize, Failure>,
    ) {
        self.done.fetch_add(1, Ordering::Relaxed);
        match &result {
            Ok(_) => tracing::debug!(change = %step.change, "changed the catalog"),
            Err(_) => locked(&self.missing).extend(step.change.provides()),
        }
        outcomes.push(Outcome { step, result });
    }

    async fn close(self) {
        let spare = std::mem::take(&mut *locked(&self.spare));
        join_all(spare.into_iter().map(Session::close)).await;
    }
}

/// Whether the session lives on.
fn is_about_statement(error: &tokio_postgres::Error) -> bool {
    error
        .as_db_error()
        .is_some_and(|error| error.parsed_severity() == Some(Severity::Error))
}
