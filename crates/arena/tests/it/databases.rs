//! Each promise is checked on both databases.

use std::path::{Path, PathBuf};

use arena::store::{DatabaseUrl, Store};
use private_postgres::Cluster;

/// A database of its own for one test.
pub struct Database {
    pub url: DatabaseUrl,
    _keep: Keep,
}

enum Keep {
    Directory { _directory: tempfile::TempDir },
    Cluster { _cluster: Cluster },
}

impl Database {
    pub fn sqlite() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let url = DatabaseUrl::sqlite(directory.path().join("arena.db"));
        Self { url, _keep: Keep::Directory { _directory: directory } }
    }

    pub fn postgres() -> Self {
        let cluster = Cluster::start();
        let url = cluster.create_database("arena").parse().unwrap();
        Self { url, _keep: Keep::Cluster { _cluster: cluster } }
    }

    pub async fn open(&self) -> Store {
        Store::open(&self.url).await.unwrap_or_else(|error| panic!("{error} ({})", error.hint()))
    }
}

/// The files SQLite keeps for a database, as far as they exist.
pub fn files_of(path: &Path) -> Vec<String> {
    let beside = |suffix: &str| PathBuf::from(format!("{}{suffix}", path.display()));
    let names = ["", "-wal", "-shm"].into_iter().filter(|suffix| beside(suffix).exists());
    names.map(|suffix| format!("db{suffix}")).collect()
}
