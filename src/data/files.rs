//! Small helpers for whoever writes files: an atomic write, the checks before it, and hexadecimal digests.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Writes `bytes` to `path` so that a reader sees the old file or the new one, never a part: a temporary
/// file beside it, flushed to the disk, then renamed. A symbolic link is followed and stays; a file that is replaced
/// keeps its permissions.
///
/// # Errors
///
/// What the operating system says, and where something stands at `path` that is no regular file (a device, a
/// folder, a link to nothing); the temporary file is removed then.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let (target, temporary) = places(path)?;
    let written = create(&target, &temporary)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&temporary, &target));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Tells before long work whether [`write_atomic`] could write to `path` now: makes the temporary file and
/// removes it. What stands at `path` is left alone.
///
/// # Errors
///
/// As [`write_atomic`].
pub fn check_writable(path: &Path) -> io::Result<()> {
    let (target, temporary) = places(path)?;
    create(&target, &temporary)?;
    fs::remove_file(&temporary)
}

/// Whether both paths lead to one existing file, links followed.
#[must_use]
pub fn is_same_file(one: &Path, other: &Path) -> bool {
    matches!((fs::canonicalize(one), fs::canonicalize(other)), (Ok(one), Ok(other)) if one == other)
}

/// The file that is written, links followed, and the temporary file beside it.
fn places(path: &Path) -> io::Result<(PathBuf, PathBuf)> {
    let wrong = |expected: &str| io::Error::new(io::ErrorKind::InvalidInput, expected.to_owned());
    let target = match fs::symlink_metadata(path) {
        Ok(found) if found.is_symlink() => fs::canonicalize(path)?,
        _ => path.to_owned(),
    };
    if fs::metadata(&target).is_ok_and(|found| !found.is_file()) {
        return Err(wrong("expected a regular file or none, got a folder, a device or the like"));
    }
    let name = target.file_name().ok_or_else(|| wrong("not the name of a file"))?;
    let mut temporary = OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}.tmp", std::process::id()));
    let temporary = target.with_file_name(temporary);
    Ok((target, temporary))
}

/// The temporary file, made anew and never through a link, with the permissions of the file that it replaces.
fn create(target: &Path, temporary: &Path) -> io::Result<File> {
    // Left behind by a process of the same number, which in a container is always the same.
    let _ = fs::remove_file(temporary);
    let file = File::create_new(temporary)?;
    if let Ok(found) = fs::metadata(target) {
        file.set_permissions(found.permissions())?;
    }
    Ok(file)
}

/// Lower-case hexadecimal digits of `bytes`.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_atomic_write_replaces_the_file_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        write_atomic(&path, b"one").unwrap();
        write_atomic(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(write_atomic(Path::new("/"), b"x").is_err());
    }

    #[cfg(unix)]
    #[test]
    fn only_regular_files_are_replaced_and_a_link_stays_a_link() {
        use std::os::unix::fs::{PermissionsExt as _, symlink};
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        symlink(&file, &link).unwrap();
        write_atomic(&link, b"new").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&file).unwrap(), b"new");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        // A socket stands for every kind of file that is none: as root a mistake would replace a device.
        let socket = dir.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let nowhere = dir.path().join("nowhere");
        symlink(dir.path().join("none"), &nowhere).unwrap();
        for path in [socket.as_path(), nowhere.as_path(), dir.path()] {
            assert!(write_atomic(path, b"x").is_err(), "{}", path.display());
            assert!(check_writable(path).is_err(), "{}", path.display());
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 4);
    }

    #[test]
    fn a_place_is_tried_without_touching_what_stands_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        check_writable(&path).unwrap();
        assert!(!path.exists());
        fs::write(&path, "old").unwrap();
        check_writable(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(check_writable(&dir.path().join("none/a")).is_err());
    }

    #[test]
    fn two_names_of_one_file_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, "").unwrap();
        assert!(is_same_file(&path, &dir.path().join(".").join("a")));
        assert!(!is_same_file(&path, &dir.path().join("b")));
        assert!(!is_same_file(&dir.path().join("b"), &dir.path().join("b")), "there is nothing to lose yet");
    }

    #[test]
    fn hex_is_lower_case_and_padded() {
        assert_eq!(hex(&[0, 0xab, 0x0f]), "00ab0f");
    }
}
