//! The textfile: metrics for `node_exporter`'s collector, which reads `*.prom` in a folder at any moment.
//!
//! It must never see half a file, so the text is written aside and renamed into place. The name aside
//! does not end in `.prom`, and carries the process id: two runs cannot write into each other's.
//!
//! The collector puts the files of all tasks together and takes each series once: of what a process counts
//! as a whole, such as lost spans, it would keep one task's and complain at each scrape. So these series get
//! the task's name here, as the Pushgateway gives it to them by their group.

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

/// The text with the label `task` on each series that has none.
#[must_use]
pub fn of_task(task: &str, text: &str) -> String {
    let task = task.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let mut labelled = String::with_capacity(text.len() + 4096);
    for line in text.split_inclusive('\n') {
        match line.find(['{', ' ']) {
            // Our names of labels need no look at quotes: no other ends in `task`.
            Some(at) if !line.starts_with('#') && !line.contains("task=\"") => {
                let (name, rest) = line.split_at(at);
                let (open, rest) = rest.strip_prefix('{').map_or(("}", rest), |labels| (",", labels));
                labelled.extend([name, "{task=\"", &task, "\"", open, rest]);
            }
            _ => labelled.push_str(line),
        }
    }
    labelled
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
    fn every_series_names_its_task() {
        let text = "# TYPE a counter\na 1\na{exporter=\"otlp\"} 2\na{task=\"b\",x=\"y\"} 3\n\n";
        let expected = "# TYPE a counter\na{task=\"r\\\"\"} 1\na{task=\"r\\\"\",exporter=\"otlp\"} 2\n\
                        a{task=\"b\",x=\"y\"} 3\n\n";
        assert_eq!(of_task("r\"", text), expected);
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
