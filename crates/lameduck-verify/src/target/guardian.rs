//! Kills a server whose tester died without a chance to clean up (SIGKILL, Ctrl-C on a test run).

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

/// A shell that waits for the end of a pipe only the tester holds. The kernel closes the pipe however the
/// tester ends, so neither polling nor a parent-death signal (which needs unsafe code, and goes by thread) is
/// needed.
#[derive(Debug)]
pub(super) struct Guardian {
    shell: Child,
}

impl Guardian {
    /// Guards the process group of this number.
    pub(super) fn of(group: u32) -> io::Result<Guardian> {
        let shell = Command::new("/bin/sh")
            .args(["-c", r#"read -r _; kill -s KILL -- "-$0" 2>/dev/null"#, &group.to_string()])
            // Not in the tester's group: what is typed at the terminal must not end the guardian first.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Guardian { shell })
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        // Killed before its pipe closes: the number of the group may belong to another by now.
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}
