//! Jobs in SQLite: each change is one transaction on the one connection that writes.

use super::Sqlite;
use crate::jobs::{ATTEMPTS, CLAIM, Job, JobStates};
use crate::store::StoreError;

/// The clock of the claims, in milliseconds. All workers on one file run on one machine.
const NOW: &str = "CAST(unixepoch('subsec') * 1000 AS INTEGER)";

/// Whether a claim has ended. One that lasts longer than any can was made before the clock was set back.
const ENDED: &str = "claim_ends_ms NOT BETWEEN CAST(unixepoch('subsec') * 1000 AS INTEGER) \
                     AND CAST(unixepoch('subsec') * 1000 AS INTEGER) + 10000";

const CLAIM_MS: i64 = CLAIM.as_millis() as i64;
const _: () = assert!(2 * CLAIM_MS == 10_000, "what a claim is told from a wrong clock by");

impl Sqlite {
    pub(crate) async fn post_job(&self, take_ms: i64) -> Result<i64, StoreError> {
        // To its end: the row comes before the commit, which a full disk can still refuse.
        let rows = sqlx::query_scalar("INSERT INTO jobs (take_ms) VALUES (?1) RETURNING id")
            .bind(take_ms)
            .fetch_all(&self.writer)
            .await;
        let row = rows.and_then(|rows| rows.into_iter().next().ok_or(sqlx::Error::RowNotFound));
        row.map_err(|error| self.failed(&error))
    }

    pub(crate) async fn has_jobs(&self) -> Result<bool, StoreError> {
        let text = format!(
            "SELECT EXISTS (SELECT 1 FROM jobs WHERE state IN ('waiting', 'claimed') \
             AND (state = 'waiting' OR {ENDED}))"
        );
        sqlx::query_scalar(sqlx::AssertSqlSafe(text))
            .fetch_one(&self.readers)
            .await
            .map_err(|error| self.failed(&error))
    }

    pub(crate) async fn claim_jobs(&self, most: i64, worker: &str) -> Result<Vec<Job>, StoreError> {
        self.claim(most, worker).await.map_err(|error| self.failed(&error))
    }

    async fn claim(&self, most: i64, worker: &str) -> Result<Vec<Job>, sqlx::Error> {
        let mut transaction = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        let died_too_often = format!(
            "UPDATE jobs SET state = 'failed', attempts = attempts + 1, charged_to = charged_to || worker || ';' WHERE state IN ('waiting', 'claimed') \
             AND state = 'claimed' AND {ENDED} AND attempts + 1 >= ?1"
        );
        sqlx::query(sqlx::AssertSqlSafe(died_too_often))
            .bind(ATTEMPTS)
            .execute(&mut *transaction)
            .await?;
        // A claim that ran out is its worker's death, and charged; one that was given back is not.
        let claim = format!(
            "UPDATE jobs SET attempts = attempts + (state = 'claimed'), \
             charged_to = CASE state WHEN 'claimed' THEN charged_to || worker || ';' ELSE charged_to END, \
             state = 'claimed', claim = claim + 1, worker = ?1, claimed_ms = {NOW}, claim_ends_ms = {NOW} + ?2, \
             pickup_ms = coalesce(max(pickup_ms, {NOW} - given_back_ms), {NOW} - given_back_ms, pickup_ms), \
             given_back_ms = NULL \
             WHERE id IN (SELECT id FROM jobs WHERE state IN ('waiting', 'claimed') \
             AND (state = 'waiting' OR {ENDED}) ORDER BY id LIMIT ?3) \
             RETURNING id, take_ms, claim"
        );
        let rows = sqlx::query_as(sqlx::AssertSqlSafe(claim))
            .bind(worker)
            .bind(CLAIM_MS)
            .bind(most)
            .fetch_all(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(rows.into_iter().map(Job::from_row).collect())
    }

    /// Whether the claim was still good; if not, nothing has happened.
    pub(crate) async fn complete_job(&self, job: &Job, worker: &str) -> Result<bool, StoreError> {
        self.complete(job, worker).await.map_err(|error| self.failed(&error))
    }

    async fn complete(&self, job: &Job, worker: &str) -> Result<bool, sqlx::Error> {
        let mut transaction = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        let completed = sqlx::query(
            "UPDATE jobs SET state = 'done' WHERE id = ?1 AND claim = ?2 AND state = 'claimed'",
        )
        .bind(job.id)
        .bind(job.claim)
        .execute(&mut *transaction)
        .await?;
        if completed.rows_affected() == 0 {
            return Ok(false);
        }
        sqlx::query("INSERT INTO job_effects (job, amount, worker) VALUES (?1, ?2, ?3)")
            .bind(job.id)
            .bind(job.amount())
            .bind(worker)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(true)
    }

    pub(crate) async fn keep_jobs(&self, jobs: &[Job]) -> Result<(), StoreError> {
        let text = format!(
            "UPDATE jobs SET claim_ends_ms = {NOW} + ?2 WHERE state = 'claimed' \
             AND (id, claim) IN (SELECT value ->> 0, value ->> 1 FROM json_each(?1))"
        );
        sqlx::query(sqlx::AssertSqlSafe(text))
            .bind(claims(jobs))
            .bind(CLAIM_MS)
            .execute(&self.writer)
            .await
            .map(drop)
            .map_err(|error| self.failed(&error))
    }

    pub(crate) async fn give_jobs_back(&self, jobs: &[Job]) -> Result<(), StoreError> {
        let text = format!(
            "UPDATE jobs SET state = 'waiting', worker = NULL, given_back_ms = {NOW} WHERE state = 'claimed' \
             AND (id, claim) IN (SELECT value ->> 0, value ->> 1 FROM json_each(?1))"
        );
        sqlx::query(sqlx::AssertSqlSafe(text))
            .bind(claims(jobs))
            .execute(&self.writer)
            .await
            .map(drop)
            .map_err(|error| self.failed(&error))
    }

    pub(crate) async fn charge_job(&self, job: &Job) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE jobs SET attempts = attempts + 1, charged_to = charged_to || worker || ';', \
             state = CASE WHEN attempts + 1 >= ?3 THEN 'failed' ELSE 'waiting' END \
             WHERE id = ?1 AND claim = ?2 AND state = 'claimed'",
        )
        .bind(job.id)
        .bind(job.claim)
        .bind(ATTEMPTS)
        .execute(&self.writer)
        .await
        .map(drop)
        .map_err(|error| self.failed(&error))
    }

    pub(crate) async fn job_states(&self) -> Result<JobStates, StoreError> {
        sqlx::query_as(JobStates::QUERY)
            .fetch_one(&self.readers)
            .await
            .map(JobStates::from_row)
            .map_err(|error| self.failed(&error))
    }
}

/// The claims as a JSON array of `[id, claim]`.
fn claims(jobs: &[Job]) -> String {
    let rows: Vec<_> = jobs.iter().map(|job| (job.id, job.claim)).collect();
    serde_json::to_string(&rows).expect("integers always serialise")
}
