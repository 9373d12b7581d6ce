//! Whether a second generation fits into memory beside this one.
//!
//! During an upgrade both are there. Where there is no room for two, the system's killer chooses between them, and it may
//! choose the one that serves. So it is looked at before: [`look`] reads what the kernel tells, [`fits`] decides, and what
//! is not known speaks for the upgrade.

use std::fmt;
use std::path::{Path, PathBuf};

/// A successor is expected to need what this process uses, and this part of it more: it starts while caches are filled
/// twice.
const MORE: u64 = 5;

/// Bytes of any file that are read: the kernel's own are far shorter.
const FILE: u64 = 1024 * 1024;

/// What the kernel tells of memory. Nothing where it tells nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// What this process has to itself: a successor shares the program's file, and the counters.
    own: Option<u64>,
    /// What is left, in this machine and in each control group around this process.
    left: Vec<Room>,
}

/// Memory that can still be had.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Room {
    whose: Whose,
    bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Whose {
    Machine,
    /// A control group, by its directory, with its limit.
    Group(PathBuf, u64),
}

impl fmt::Display for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Whose::Machine => f.write_str("in this machine"),
            Whose::Group(path, limit) => {
                write!(
                    f,
                    "in the control group {}, which may have {}",
                    path.display(),
                    size(*limit)
                )
            }
        }
    }
}

/// Whether there is room for one more.
///
/// # Errors
///
/// Why not, with a way out, for people.
pub(crate) fn fits(seen: &Seen) -> Result<(), String> {
    let (Some(own), Some(least)) = (seen.own, seen.left.iter().min_by_key(|room| room.bytes))
    else {
        return Ok(());
    };
    let needed = own.saturating_add(own / MORE);
    if needed <= least.bytes {
        return Ok(());
    }
    Err(format!(
        "there is no memory for two generations: this one uses {}, so another needs about {}, and {} are left {}; allow \
         more, stop and start the service instead, or turn this check off",
        size(own),
        size(needed),
        size(least.bytes),
        least.whose
    ))
}

fn size(bytes: u64) -> String {
    const MIB: u64 = 1024 * 1024;
    match bytes {
        0..MIB => format!("{} KiB", bytes / 1024),
        _ => format!("{} MiB", bytes / MIB),
    }
}

/// Reads what the kernel tells. `root` is where its files are: `/`.
pub(crate) fn look(root: &Path) -> Seen {
    let own = read(&root.join("proc/self/status")).and_then(|text| kibibytes(&text, "RssAnon:"));
    let machine = read(&root.join("proc/meminfo"));
    let machine = machine.and_then(|text| kibibytes(&text, "MemAvailable:"));
    let mut left: Vec<Room> =
        machine.map(|bytes| Room { whose: Whose::Machine, bytes }).into_iter().collect();
    for group in groups(root) {
        left.extend(group.room());
    }
    Seen { own, left }
}

/// A control group around this process, and which files tell of it.
struct Group {
    directory: PathBuf,
    version: Version,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// This process's groups and those around them. A container may not see its own below the mount, but the mount itself.
fn groups(root: &Path) -> Vec<Group> {
    let (Some(own), Some(mounts)) =
        (read(&root.join("proc/self/cgroup")), read(&root.join("proc/self/mounts")))
    else {
        return Vec::new();
    };
    let mut groups = Vec::new();
    for line in own.lines() {
        // Hierarchy, controllers, path.
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let version = match controllers {
            "" => Version::Two,
            named if named.split(',').any(|name| name == "memory") => Version::One,
            _ => continue,
        };
        let Some(mount) = mounts.lines().find_map(|line| version.mount(line)) else { continue };
        let mount = root.join(mount.trim_start_matches('/'));
        let own = mount.join(path.trim_start_matches('/'));
        let around = own.ancestors().take_while(|around| around.starts_with(&mount));
        groups.extend(around.map(|directory| Group { directory: directory.to_owned(), version }));
    }
    groups
}

impl Version {
    /// Where its hierarchy is mounted, if this line of the list of mounts says so.
    fn mount(self, line: &str) -> Option<&str> {
        let mut fields = line.split(' ').skip(1);
        let (path, kind, options) = (fields.next()?, fields.next()?, fields.next()?);
        let ours = match self {
            Version::One => kind == "cgroup" && options.split(',').any(|name| name == "memory"),
            Version::Two => kind == "cgroup2",
        };
        ours.then_some(path)
    }

    /// The limit, what is used, and what of that can be had back.
    fn files(self) -> (&'static str, &'static str, &'static [&'static str]) {
        match self {
            Version::One => (
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                &["total_inactive_file", "total_active_file"],
            ),
            Version::Two => (
                "memory.max",
                "memory.current",
                &["inactive_file", "active_file", "slab_reclaimable"],
            ),
        }
    }
}

impl Group {
    /// Nothing where there is no limit, or none that can be read.
    fn room(self) -> Option<Room> {
        let (limit, used, reclaimable) = self.version.files();
        let number = |name: &str| read(&self.directory.join(name))?.trim().parse::<u64>().ok();
        let (limit, used) = (number(limit)?, number(used)?);
        let text = read(&self.directory.join("memory.stat"))?;
        // Files that were read stay in memory as long as nobody wants it: they are no use of this group's.
        let again = reclaimable.iter().filter_map(|name| value(&text, name));
        let again = again.fold(0u64, u64::saturating_add);
        let bytes = limit.saturating_sub(used.saturating_sub(again));
        Some(Room { whose: Whose::Group(self.directory, limit), bytes })
    }
}

/// The number behind a word at the beginning of a line.
fn value(text: &str, word: &str) -> Option<u64> {
    let mut words = text.lines().map(|line| line.split_whitespace());
    let mut line = words.find_map(|mut words| (words.next() == Some(word)).then_some(words))?;
    line.next()?.parse().ok()
}

fn kibibytes(text: &str, word: &str) -> Option<u64> {
    value(text, word)?.checked_mul(1024)
}

fn read(path: &Path) -> Option<String> {
    use std::io::Read;
    let mut bytes = Vec::new();
    std::fs::File::open(path).ok()?.take(FILE).read_to_end(&mut bytes).ok()?;
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn machine(mebibytes: u64) -> Room {
        Room { whose: Whose::Machine, bytes: mebibytes * MIB }
    }

    fn group(limit: u64, left: u64) -> Room {
        Room { whose: Whose::Group("/sys/fs/cgroup/web".into(), limit * MIB), bytes: left * MIB }
    }

    /// `own` in MiB.
    fn decide(own: Option<u64>, left: Vec<Room>) -> Result<(), String> {
        fits(&Seen { own: own.map(|own| own * MIB), left })
    }

    #[test]
    fn a_second_generation_needs_what_this_one_uses_and_a_fifth_more() {
        for (own, left, fit) in [
            (Some(100), vec![machine(119)], false),
            (Some(100), vec![machine(120)], true),
            (Some(100), vec![machine(8000), group(200, 90)], false),
            (Some(100), vec![machine(8000), group(400, 290)], true),
            (Some(100), vec![group(400, 290), group(300, 40), machine(8000)], false),
            (Some(0), vec![machine(0)], true),
            // Who does not know does not refuse.
            (None, vec![machine(0)], true),
            (Some(100), vec![], true),
            (None, vec![], true),
        ] {
            assert_eq!(decide(own, left.clone()).is_ok(), fit, "{own:?} beside {left:?}");
        }
        let most = Seen { own: Some(u64::MAX), left: vec![machine(8000)] };
        assert!(fits(&most).is_err(), "no sum goes round");
    }

    #[test]
    fn a_refusal_says_what_is_needed_what_is_left_where_and_what_to_do() {
        assert_eq!(
            decide(Some(100), vec![machine(8000), group(200, 90)]).unwrap_err(),
            "there is no memory for two generations: this one uses 100 MiB, so another needs about 120 MiB, and 90 MiB \
             are left in the control group /sys/fs/cgroup/web, which may have 200 MiB; allow more, stop and start the \
             service instead, or turn this check off"
        );
        let told = decide(Some(100), vec![Room { whose: Whose::Machine, bytes: 512 * 1024 }]);
        assert!(told.unwrap_err().contains("512 KiB are left in this machine;"));
    }

    /// A directory with files of the kernel's, as they were written down.
    struct Files(PathBuf);

    impl Files {
        fn new(name: &str, files: &[(&str, &str)]) -> Files {
            let name = format!("lameduck-memory-{}-{name}", std::process::id());
            let root = std::env::temp_dir().join(name);
            for (path, text) in files {
                let path = root.join(path);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, text).unwrap();
            }
            std::fs::create_dir_all(&root).unwrap();
            Files(root)
        }
    }

    impl Drop for Files {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    const STATUS: (&str, &str) = (
        "proc/self/status",
        "Name:\tweb\nVmRSS:\t  4096 kB\nRssAnon:\t  2048 kB\nRssFile:\t 9 kB\n",
    );
    const MEMINFO: (&str, &str) =
        ("proc/meminfo", "MemTotal:  8192 kB\nMemFree:  1 kB\nMemAvailable:  4096 kB\n");
    const MOUNTS: (&str, &str) = (
        "proc/self/mounts",
        "sysfs /sys sysfs rw 0 0\n\
         cgroup /sys/fs/cgroup/cpu cgroup rw,relatime,cpu 0 0\n\
         cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0\n\
         cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n",
    );
    const OWN: (&str, &str) = ("proc/self/cgroup", "4:memory:/a/b\n1:cpu:/\n0::/c:d\n");

    #[test]
    fn both_versions_of_control_groups_are_read_and_each_group_around() {
        let one = "sys/fs/cgroup/memory";
        let two = "sys/fs/cgroup/unified/c:d";
        let file = |directory: &str, name: &str| format!("{directory}/{name}");
        let own = [
            (file(&format!("{one}/a/b"), "memory.limit_in_bytes"), "9223372036854771712\n"),
            (file(&format!("{one}/a/b"), "memory.usage_in_bytes"), "500\n"),
            (file(&format!("{one}/a/b"), "memory.stat"), "cache 1\ntotal_cache 9\n"),
            (file(&format!("{one}/a"), "memory.limit_in_bytes"), "1000\n"),
            (file(&format!("{one}/a"), "memory.usage_in_bytes"), "900\n"),
            (
                file(&format!("{one}/a"), "memory.stat"),
                "inactive_file 7\ntotal_inactive_file 100\ntotal_active_file 50\n",
            ),
            (file(two, "memory.max"), "2000\n"),
            (file(two, "memory.current"), "1500\n"),
            (
                file(two, "memory.stat"),
                "file 9\ninactive_file 20\nactive_file 30\nslab_reclaimable 1\n",
            ),
        ];
        let own = own.iter().map(|(path, text)| (path.as_str(), *text));
        let all: Vec<_> = [STATUS, MEMINFO, MOUNTS, OWN].into_iter().chain(own).collect();
        let files = Files::new("both", &all);
        let seen = look(&files.0);
        assert_eq!(seen.own, Some(2048 * 1024));
        let left: Vec<_> = seen.left.iter().map(|room| room.bytes).collect();
        // The machine; a group without a limit; the one around it; that of version 2.
        assert_eq!(left, [4096 * 1024, 9_223_372_036_854_771_712 - 500, 250, 551]);
    }

    #[test]
    fn a_group_without_a_limit_leaves_no_less_than_the_machine() {
        let own = [
            ("sys/fs/cgroup/unified/c:d/memory.max", "max\n"),
            ("sys/fs/cgroup/unified/c:d/memory.current", "1500\n"),
            ("sys/fs/cgroup/unified/c:d/memory.stat", "inactive_file 20\n"),
        ];
        let all: Vec<_> = [STATUS, MEMINFO, MOUNTS, OWN].into_iter().chain(own).collect();
        let files = Files::new("max", &all);
        assert_eq!(look(&files.0).left, [machine(4)]);
    }

    #[test]
    fn what_is_missing_or_means_nothing_is_not_known() {
        assert_eq!(look(Path::new("/nowhere/at/all")), Seen::default());
        let nonsense =
            ["", "\n\n", "RssAnon:\nMemAvailable:\n", "RssAnon: -1 kB", "::::", "0::", "a b c d e"];
        for (number, text) in nonsense.into_iter().enumerate() {
            let names =
                ["proc/self/status", "proc/meminfo", "proc/self/mounts", "proc/self/cgroup"];
            let all = names.map(|name| (name, text));
            let files = Files::new(&format!("nonsense{number}"), &all);
            assert!(fits(&look(&files.0)).is_ok(), "{text:?}");
        }
        let huge = "RssAnon: 18446744073709551615 kB\nMemAvailable: 99999999999999999999 kB\n";
        let files = Files::new("huge", &[("proc/self/status", huge), ("proc/meminfo", huge)]);
        assert_eq!(look(&files.0), Seen::default());
        // A directory where a file should be, and bytes that are no text.
        let files = Files::new("odd", &[("proc/self/status/x", ""), ("proc/meminfo", "\u{0}")]);
        assert_eq!(look(&files.0), Seen::default());
    }

    #[test]
    fn this_process_is_seen() {
        let seen = look(Path::new("/"));
        assert!(seen.own.is_some_and(|own| own > 0), "{seen:?}");
        assert!(seen.left.iter().any(|room| room.whose == Whose::Machine && room.bytes > 0));
    }
}
