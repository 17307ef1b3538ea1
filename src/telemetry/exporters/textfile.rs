//! The textfile: metrics for `node_exporter`'s collector, which reads `*.prom` in a folder at any moment.
//!
//! It must never see half a file, so the text is written aside and renamed into place. The name aside
//! does not end in `.prom`, and carries the process id: two runs cannot write into each other's.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// `node_exporter` runs as another user.
const MODE: u32 = 0o644;

/// Puts `text` into the file at `path`, whole or not at all. Blocks.
///
/// # Errors
///
/// What the file system said; the old file is still there then.
pub fn write(path: &Path, text: &str) -> io::Result<()> {
    let aside = aside(path)?;
    let written = create(&aside).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        // Else a crash of the host may leave an empty file under the right name.
        file.sync_all()
    });
    written.and_then(|()| fs::rename(&aside, path)).inspect_err(|_| {
        let _ = fs::remove_file(&aside);
    })
}

/// Same folder: a rename across file systems is a copy.
fn aside(path: &Path) -> io::Result<PathBuf> {
    let name =
        path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not a file name"))?;
    let mut aside = name.to_os_string();
    aside.push(format!(".{}.tmp", std::process::id()));
    Ok(path.with_file_name(aside))
}

fn create(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(MODE).open(path)?;
    // The mode at creation is cut by the umask, which cron and systemd set narrow.
    file.set_permissions(Permissions::from_mode(MODE))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn the_file_is_whole_readable_and_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.prom");
        write(&path, "old 1\n").unwrap();
        // A new inode: a reader of the old file goes on reading the old text.
        let before = File::open(&path).unwrap();
        write(&path, "new 2\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new 2\n");
        assert_eq!(io::read_to_string(before).unwrap(), "old 1\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
        assert_eq!(names(folder.path()), ["a.prom"]);
    }

    #[test]
    fn what_cannot_be_written_leaves_nothing_aside() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("taken.prom/full")).unwrap();
        write(&folder.path().join("taken.prom"), "x 1\n").unwrap_err();
        assert_eq!(names(folder.path()), ["taken.prom"]);
        write(&folder.path().join("absent/a.prom"), "x 1\n").unwrap_err();
        write(Path::new("/"), "x 1\n").unwrap_err();
    }
}
