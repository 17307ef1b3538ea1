//! The textfile: metrics for `node_exporter`'s collector, which reads `*.prom` in a folder at any moment.
//!
//! It must never see half a file, so the text is written aside and renamed into place. The name aside
//! does not end in `.prom`, and carries the process id: two runs cannot write into each other's.
//!
//! The collector puts the files of all tasks together and takes each series once: of what a process counts
//! as a whole, such as lost spans, it would keep one task's and complain at each scrape. So these series get
//! the task's name here, as the Pushgateway gives it to them by their group.
//!
//! What is no file is not replaced by one: a device or a pipe, such as `/dev/stdout`, is written to as it is, and of a
//! symbolic link it is the target that is replaced.
//!
//! As a Pushgateway does, too, it remembers when the task succeeded last: a failed run does not know, and without
//! that a task that runs once a week would be missed before its time.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use crate::telemetry::names::LAST_SUCCESS_TIMESTAMP;

/// `node_exporter` runs as another user.
const MODE: u32 = 0o644;

/// Puts `text` into the file at `path`, whole or not at all. Blocks.
///
/// # Errors
///
/// What the file system said; the old file is still there then.
pub fn write(path: &Path, text: &str) -> io::Result<()> {
    let path = &target(path)?;
    if is_special(path) {
        return pour(path, text);
    }
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

/// What a symbolic link leads to, also where that is not there yet; anything else is its own.
fn target(path: &Path) -> io::Result<PathBuf> {
    // These name an open file of the process; what that is called is not ours.
    if is_special(path) || !fs::symlink_metadata(path).is_ok_and(|link| link.is_symlink()) {
        return Ok(path.to_owned());
    }
    match fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Ok(path.with_file_name("").join(fs::read_link(path)?))
        }
        found => found,
    }
}

/// A device, a pipe, or a name of an open file: there is nothing to be renamed into place.
fn is_special(path: &Path) -> bool {
    let named = ["/dev", "/proc"].iter().any(|folder| path.starts_with(folder));
    named || fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir())
}

/// Writes to what is there, behind what it has. A pipe that nobody reads is an error, and no wait.
fn pour(path: &Path, text: &str) -> io::Result<()> {
    let waits_for_nobody = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
    let mut file = OpenOptions::new().append(true).custom_flags(waits_for_nobody).open(path)?;
    let flags = fcntl_getfl(&file)?;
    fcntl_setfl(&file, flags - OFlags::NONBLOCK)?;
    file.write_all(text.as_bytes())
}

/// No file of ours comes near; a longer one is not read.
const LONGEST: u64 = 1 << 20;

/// The text with the task's last success in the file at `path`, which it is about to replace, if it knows of none
/// itself. Whatever else that file may be or hold is let go. Blocks.
#[must_use]
pub fn keeping_success(path: &Path, task: &str, text: String) -> String {
    let series = of_task(task, &format!("{} ", LAST_SUCCESS_TIMESTAMP.name));
    let find = |text: &str| text.lines().find_map(|line| line.strip_prefix(&series)?.parse::<f64>().ok());
    // Anything but a file, such as a pipe, might never be read to its end.
    let is_ours = |file: fs::Metadata| file.is_file() && file.len() <= LONGEST;
    if find(&text).is_none()
        && fs::metadata(path).is_ok_and(is_ours)
        && let Some(at) = fs::read_to_string(path).ok().as_deref().and_then(find)
        && at.is_finite()
    {
        let (name, help) = (LAST_SUCCESS_TIMESTAMP.name, LAST_SUCCESS_TIMESTAMP.help);
        return format!("{text}# HELP {name} {help}\n# TYPE {name} gauge\n{series}{at}\n\n");
    }
    text
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
    use std::os::fd::AsRawFd;

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
    fn the_last_success_of_the_task_outlives_a_run_that_failed_and_nothing_else_does() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.prom");
        let name = LAST_SUCCESS_TIMESTAMP.name;
        let good = format!("# TYPE {name} gauge\n{name}{{task=\"b\"}} 12.5\n");
        let check = |old: &str, task: &str, new: &str, kept: bool| {
            write(&path, old).unwrap();
            let text = keeping_success(&path, task, new.to_owned());
            let added = text.strip_prefix(new).unwrap();
            assert_eq!(added.contains(&format!("\n{name}{{task=\"b\"}} 12.5\n")), kept, "{old}");
            assert_eq!(added.is_empty(), !kept, "{old}");
            assert_eq!(added.matches("# ").count(), 2 * usize::from(kept), "{old}");
        };
        check(&good, "b", "x 1\n", true);
        check(&good, "b", &format!("{name}{{task=\"b\"}} 99\n"), false);
        check(&good, "a", "x 1\n", false);
        for odd in ["", "nonsense", &good.replace("12.5", "soon"), &good.replace("12.5", "+Inf")] {
            check(odd, "b", "x 1\n", false);
        }
        fs::write(&path, [0xff, 0xfe]).unwrap();
        assert_eq!(keeping_success(&path, "b", "x 1\n".to_owned()), "x 1\n");
        assert_eq!(keeping_success(folder.path(), "b", "x 1\n".to_owned()), "x 1\n");
        assert_eq!(keeping_success(&folder.path().join("absent"), "b", "x 1\n".to_owned()), "x 1\n");
    }

    #[test]
    fn a_link_stays_a_link_and_what_is_no_file_stays_what_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let (there, link) = (folder.path().join("there"), folder.path().join("a.prom"));
        fs::create_dir(&there).unwrap();
        std::os::unix::fs::symlink("there/a.prom", &link).unwrap();
        for text in ["old 1\n", "new 2\n"] {
            write(&link, text).unwrap();
            assert_eq!(fs::read_to_string(there.join("a.prom")).unwrap(), text);
        }
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(
            (names(&there), names(folder.path())),
            (vec!["a.prom".to_owned()], vec!["a.prom".to_owned(), "there".to_owned()])
        );

        let log = there.join("log");
        let mut open = File::create(&log).unwrap();
        open.write_all(b"before\n").unwrap();
        write(Path::new(&format!("/proc/self/fd/{}", open.as_raw_fd())), "x 1\n").unwrap();
        assert_eq!(fs::read_to_string(&log).unwrap(), "before\nx 1\n");
        write(Path::new("/dev/null"), "x 1\n").unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());

        let fifo = folder.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RWXU).unwrap();
        write(&fifo, "x 1\n").unwrap_err();
        assert!(!fs::metadata(&fifo).unwrap().is_file());
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
