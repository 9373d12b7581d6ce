//! The reference service's parts against real databases: a SQLite file and a private PostgreSQL.

mod counter;
mod databases;
mod http;
mod orders;
mod sqlite_file;
mod store;
