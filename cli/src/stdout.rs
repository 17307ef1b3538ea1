//! Whether standard output was there when the process began.
//!
//! One that was closed (`>&-`) is no longer to be told from an open one: Rust's runtime has put the null device in its
//! place, opened for reading and writing, before any of our code runs. A program that starts another one with no output
//! may do the same, on purpose; a shell opens it for writing only. So it counts as closed where whoever started this
//! process has no standard output itself, or is a shell that has another one.

use std::io;
use std::path::Path;

use rustix::fs::{OFlags, fcntl_getfl};

/// The null device.
const NULL: &str = "/dev/null";

/// What a shell calls itself (`proc(5)`, comm).
const SHELLS: [&str; 10] = ["sh", "ash", "bash", "dash", "ksh", "mksh", "zsh", "fish", "busybox", "rbash"];

/// Whether it was closed, as far as can be known here; elsewhere than on Linux nothing is.
pub(crate) fn was_closed() -> bool {
    let parent = rustix::process::getppid().map_or(0, |parent| parent.as_raw_nonzero().get());
    let parent = format!("/proc/{parent}");
    is_replaced() && is_closed_by(Path::new(&parent))
}

/// Whether it is what the runtime puts in place of a closed one.
fn is_replaced() -> bool {
    let both = fcntl_getfl(io::stdout()).is_ok_and(|flags| flags.contains(OFlags::RDWR));
    both && std::fs::read_link("/proc/self/fd/1").is_ok_and(|target| target == Path::new(NULL))
}

fn is_closed_by(parent: &Path) -> bool {
    // Another user's process does not tell.
    if std::fs::read_dir(parent.join("fd")).is_err() {
        return false;
    }
    match std::fs::read_link(parent.join("fd/1")) {
        Err(error) => error.kind() == io::ErrorKind::NotFound,
        Ok(target) => {
            let name = std::fs::read_to_string(parent.join("comm")).unwrap_or_default();
            target != Path::new(NULL) && SHELLS.contains(&name.trim())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn check(comm: &str, output: Option<&str>, closed: bool) {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("fd")).unwrap();
        fs::write(folder.path().join("comm"), format!("{comm}\n")).unwrap();
        if let Some(output) = output {
            std::os::unix::fs::symlink(output, folder.path().join("fd/1")).unwrap();
        }
        assert_eq!(is_closed_by(folder.path()), closed, "{comm} {output:?}");
    }

    #[test]
    fn who_gives_no_output_on_purpose_is_told_from_who_closed_it() {
        check("bash", Some("/dev/pts/1"), true);
        check("bash", Some(NULL), false);
        check("python3", Some("pipe:[1]"), false);
        check("timeout", None, true);
        assert!(!is_closed_by(Path::new("/nowhere")));
    }
}
