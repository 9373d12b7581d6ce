//! The file of an adapter, as text.

use super::BadAdapter;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// What an adapter may have. The largest that ships has a hundredth of it.
const MOST_BYTES: u64 = 1024 * 1024;

/// The text of the file, or why it is none.
pub(super) fn read(path: &Path) -> io::Result<Result<String, BadAdapter>> {
    let name = path.display();
    let mut bytes = Vec::new();
    // One more tells that there is more. What never ends, such as a device, is not read to its end.
    File::open(path)?.take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST_BYTES {
        return Ok(Err(BadAdapter(format!("{name}: longer than 1 MiB, so it is no adapter"))));
    }
    Ok(String::from_utf8(bytes).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + good.iter().filter(|byte| **byte == b'\n').count();
        BadAdapter(format!("{name}:{line}: not UTF-8"))
    }))
}

#[cfg(test)]
mod tests {
    use super::read;
    use std::path::Path;

    fn refused(path: &Path) -> String {
        read(path).unwrap().unwrap_err().to_string()
    }

    #[test]
    fn what_cannot_be_an_adapter_is_not_read_to_its_end() {
        let error = refused(Path::new("/dev/zero"));
        assert_eq!(error, "/dev/zero: longer than 1 MiB, so it is no adapter");
    }

    #[test]
    fn what_is_not_text_is_told_with_its_line() {
        let name = format!("lameduck-verify-adapter-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, b"name = \"x\"\ncommand = [\"\xff\"]\n").unwrap();
        let error = refused(&path);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(error, format!("{}:2: not UTF-8", path.display()));
    }
}
