//! What an upgrade starts, replaced by something that fails in one way.

use super::errand::find_program;
use super::{Fault, Stage};
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

/// What stands at the path of the program that an upgrade starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stand {
    /// The real program, through a link.
    Real,
    /// A copy of the real program.
    Copy,
    /// It exits with code 1 at once.
    Exits,
    /// It never becomes ready.
    Hangs,
    /// Nothing.
    Missing,
    /// A file that may not be executed.
    NotExecutable,
    /// A file that is called a program and is none.
    NotAProgram,
}

impl Stage<'_> {
    /// The path of the program that an upgrade starts. For cases that need [`Program`](crate::case::Need::Program).
    pub fn program(&self) -> Result<PathBuf, Fault> {
        let program = self.adapter.upgrade.as_ref().and_then(|upgrade| upgrade.program.as_ref());
        let program = program
            .ok_or_else(|| Fault("the target does not declare upgrade.program".to_owned()))?;
        Ok(self.running().put_in(program).into())
    }

    /// Where the real program is.
    pub fn real_program(&self) -> Result<PathBuf, Fault> {
        let from = self.adapter.upgrade.as_ref().and_then(|upgrade| upgrade.program_from.as_ref());
        let found = from.and_then(|from| find_program(&self.running().put_in(from)));
        found.ok_or_else(|| Fault("the program that upgrades start is not found".to_owned()))
    }

    /// Puts something in the program's place, in one step (a rename).
    pub fn put_program(&self, stand: Stand) -> Result<(), Fault> {
        let program = self.program()?;
        let beside = program.with_extension("next");
        let _ = fs::remove_file(&beside);
        match stand {
            Stand::Real => symlink(self.real_program()?, &beside)?,
            Stand::Copy => drop(fs::copy(self.real_program()?, &beside)?),
            Stand::Exits => script(&beside, "#!/bin/sh\nexit 1\n", 0o755)?,
            Stand::Hangs => script(&beside, "#!/bin/sh\nexec sleep 1000\n", 0o755)?,
            Stand::NotExecutable => script(&beside, "#!/bin/sh\nexit 0\n", 0o644)?,
            Stand::NotAProgram => script(&beside, "\x7fELF and nothing more", 0o755)?,
            Stand::Missing => {
                fs::remove_file(&program)?;
                self.note("the new version: missing");
                return Ok(());
            }
        }
        fs::rename(&beside, &program)?;
        self.note(format!("the new version: {stand:?}"));
        Ok(())
    }
}

/// Written and closed before it is executed, so that the kernel does not find it busy.
fn script(path: &PathBuf, text: &str, mode: u32) -> Result<(), Fault> {
    let mut file = fs::File::create(path)?;
    file.write_all(text.as_bytes())?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    Ok(())
}
