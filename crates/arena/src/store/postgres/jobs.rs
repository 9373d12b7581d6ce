//! Jobs in PostgreSQL: workers skip what another one is just claiming.

use super::Postgres;
use super::bell::CHANNEL;
use crate::jobs::{ATTEMPTS, CLAIM, Job, JobStates};
use crate::store::StoreError;

/// The clock of the claims, in milliseconds: the server's, since workers may run on several machines.
const NOW: &str = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint";

/// Whether a claim has ended. One that lasts longer than any can was made before the clock was set back.
const ENDED: &str = "claim_ends_ms NOT BETWEEN (extract(epoch FROM clock_timestamp()) * 1000)::bigint \
                     AND (extract(epoch FROM clock_timestamp()) * 1000)::bigint + 10000";

const CLAIM_MS: i64 = CLAIM.as_millis() as i64;
const _: () = assert!(2 * CLAIM_MS == 10_000, "what a claim is told from a wrong clock by");

impl Postgres {
    pub(crate) async fn post_job(&self, take_ms: i64) -> Result<i64, StoreError> {
        let post = sqlx::query_scalar("INSERT INTO jobs (take_ms) VALUES ($1) RETURNING id");
        self.within(post.bind(take_ms).fetch_one(&self.pool)).await
    }

    pub(crate) async fn has_jobs(&self) -> Result<bool, StoreError> {
        let text = format!(
            "SELECT EXISTS (SELECT 1 FROM jobs WHERE state IN ('waiting', 'claimed') \
             AND (state = 'waiting' OR {ENDED}))"
        );
        self.within(sqlx::query_scalar(sqlx::AssertSqlSafe(text)).fetch_one(&self.pool)).await
    }

    pub(crate) async fn claim_jobs(&self, most: i64, worker: &str) -> Result<Vec<Job>, StoreError> {
        // A claim that ran out is its worker's death, and charged; one that was given back is not. One statement is one
        // transaction, and what it gives up on it does not claim.
        let text = format!(
            "WITH open AS (SELECT id, state, attempts FROM jobs WHERE state IN ('waiting', 'claimed') \
             AND (state = 'waiting' OR {ENDED}) \
             ORDER BY id LIMIT $3 FOR UPDATE SKIP LOCKED), \
             dead AS (UPDATE jobs SET state = 'failed', attempts = jobs.attempts + 1, \
             charged_to = charged_to || worker || ';' FROM open \
             WHERE jobs.id = open.id AND open.state = 'claimed' AND open.attempts + 1 >= $4) \
             UPDATE jobs SET attempts = jobs.attempts + (open.state = 'claimed')::int, state = 'claimed', \
             charged_to = CASE open.state WHEN 'claimed' THEN charged_to || worker || ';' ELSE charged_to END, \
             claim = jobs.claim + 1, worker = $1, claimed_ms = {NOW}, claim_ends_ms = {NOW} + $2, \
             pickup_ms = greatest(jobs.pickup_ms, {NOW} - jobs.given_back_ms), given_back_ms = NULL \
             FROM open WHERE jobs.id = open.id AND NOT (open.state = 'claimed' AND open.attempts + 1 >= $4) \
             RETURNING jobs.id, jobs.take_ms, jobs.claim"
        );
        let claim = sqlx::query_as(sqlx::AssertSqlSafe(text));
        let claim = claim.bind(worker).bind(CLAIM_MS).bind(most).bind(ATTEMPTS);
        let rows: Vec<_> = self.within(claim.fetch_all(&self.pool)).await?;
        Ok(rows.into_iter().map(Job::from_row).collect())
    }

    /// Whether the claim was still good; if not, nothing has happened.
    pub(crate) async fn complete_job(&self, job: &Job, worker: &str) -> Result<bool, StoreError> {
        let complete = sqlx::query(
            "WITH completed AS (UPDATE jobs SET state = 'done' \
             WHERE id = $1 AND claim = $2 AND state = 'claimed' RETURNING id) \
             INSERT INTO job_effects (job, amount, worker) SELECT id, $3, $4 FROM completed",
        );
        let complete = complete.bind(job.id).bind(job.claim).bind(job.amount()).bind(worker);
        let done = self.within(complete.execute(&self.pool)).await?;
        Ok(done.rows_affected() == 1)
    }

    pub(crate) async fn keep_jobs(&self, jobs: &[Job]) -> Result<(), StoreError> {
        let text = format!(
            "UPDATE jobs SET claim_ends_ms = {NOW} + $3 FROM unnest($1::bigint[], $2::bigint[]) AS kept (id, claim) \
             WHERE jobs.id = kept.id AND jobs.claim = kept.claim AND state = 'claimed'"
        );
        let (ids, claims) = claims(jobs);
        let keep = sqlx::query(sqlx::AssertSqlSafe(text)).bind(ids).bind(claims).bind(CLAIM_MS);
        self.within(keep.execute(&self.pool)).await.map(drop)
    }

    pub(crate) async fn give_jobs_back(&self, jobs: &[Job]) -> Result<(), StoreError> {
        // The bell is rung by the commit, so whoever hears it finds them.
        let text = format!(
            "WITH back AS (UPDATE jobs SET state = 'waiting', worker = NULL, given_back_ms = {NOW} \
             FROM unnest($1::bigint[], $2::bigint[]) AS given (id, claim) \
             WHERE jobs.id = given.id AND jobs.claim = given.claim AND state = 'claimed' RETURNING 1) \
             SELECT pg_notify('{CHANNEL}', '') FROM back LIMIT 1"
        );
        let (ids, claims) = claims(jobs);
        let give_back = sqlx::query(sqlx::AssertSqlSafe(text)).bind(ids).bind(claims);
        self.within(give_back.execute(&self.pool)).await.map(drop)
    }

    pub(crate) async fn charge_job(&self, job: &Job) -> Result<(), StoreError> {
        let charge = sqlx::query(
            "UPDATE jobs SET attempts = attempts + 1, charged_to = charged_to || worker || ';', \
             state = CASE WHEN attempts + 1 >= $3 THEN 'failed' ELSE 'waiting' END \
             WHERE id = $1 AND claim = $2 AND state = 'claimed'",
        );
        let charge = charge.bind(job.id).bind(job.claim).bind(ATTEMPTS);
        self.within(charge.execute(&self.pool)).await.map(drop)
    }

    pub(crate) async fn job_states(&self) -> Result<JobStates, StoreError> {
        let states = sqlx::query_as(JobStates::QUERY).fetch_one(&self.pool);
        self.within(states).await.map(JobStates::from_row)
    }
}

fn claims(jobs: &[Job]) -> (Vec<i64>, Vec<i64>) {
    jobs.iter().map(|job| (job.id, job.claim)).unzip()
}
