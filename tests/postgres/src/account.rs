//! Who runs the server: PostgreSQL refuses to run as root, so root hands it to the user `postgres`.

use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

const SERVER_USER: &str = "postgres";

/// The account the server's processes run under.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Account {
    /// The one the test runs under.
    Own,
    /// Another one, because the test runs as root.
    Other { uid: u32, gid: u32 },
}

impl Account {
    pub(crate) fn for_server() -> Self {
        // The owner of /proc/self is the effective user of this process; std has no call that tells it.
        let own = std::fs::metadata("/proc/self").expect("/proc is mounted").uid();
        if own != 0 {
            return Self::Own;
        }
        let users = std::fs::read_to_string("/etc/passwd").expect("/etc/passwd can be read");
        let (uid, gid) = ids_of(SERVER_USER, &users).unwrap_or_else(|| {
            panic!(
                "PostgreSQL does not run as root and there is no user `{SERVER_USER}`: \
                 `cargo xtask setup` installs it"
            )
        });
        Self::Other { uid, gid }
    }

    /// Gives a directory to the account.
    pub(crate) fn own(self, directory: &Path) {
        if let Self::Other { uid, gid } = self {
            chown(directory, Some(uid), Some(gid)).unwrap_or_else(|error| {
                panic!("{} cannot be given to `{SERVER_USER}`: {error}", directory.display())
            });
        }
    }

    /// Makes `command` run under the account, in a directory that the account may enter.
    pub(crate) fn run_as(self, command: &mut Command, directory: &Path) {
        command.current_dir(directory).env("LC_ALL", "C");
        if let Self::Other { uid, gid } = self {
            command.uid(uid).gid(gid);
        }
    }
}

fn ids_of(user: &str, passwd: &str) -> Option<(u32, u32)> {
    let mut fields = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let entry = fields.find(|entry| entry.first() == Some(&user))?;
    Some((entry.get(2)?.parse().ok()?, entry.get(3)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::ids_of;

    #[test]
    fn the_ids_of_a_user_are_its_third_and_fourth_field() {
        let passwd =
            "root:x:0:0:root:/root:/bin/bash\npostgres:x:107:115::/var/lib/postgresql:/bin/bash\n";
        assert_eq!(ids_of("postgres", passwd), Some((107, 115)));
        assert_eq!(ids_of("post", passwd), None);
    }
}
