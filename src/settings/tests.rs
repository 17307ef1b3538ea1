//! Each option has its bounds, and its name in the error.

use super::*;

fn check(field: &str, change: impl FnOnce(&mut Settings)) {
    let mut settings = Settings::new("rollup");
    settings.validate().unwrap();
    change(&mut settings);
    let error = settings.validate().unwrap_err();
    assert!(error.is_configuration());
    assert!(error.to_string().starts_with(&format!("{field}: ")), "{error}");
}

#[test]
fn each_bad_option_is_named() {
    check("task", |s| s.task = "nightly job".into());
    check("task", |s| s.task = "x".repeat(53));
    check("target_workers", |s| s.target_workers = 0);
    check("min_workers", |s| s.min_workers = Minimum::Workers(5));
    check("min_workers", |s| s.min_workers = Minimum::Percent(101));
    check("max_attempts", |s| s.max_attempts = 0);
    check("settle", |s| s.settle = Duration::ZERO);
    check("monitor_interval", |s| s.monitor_interval = Duration::ZERO);
    check("cancel_grace", |s| s.cancel_grace = Duration::ZERO);
    check("cleanup_limit", |s| s.cleanup_limit = Duration::ZERO);
    check("deadline", |s| s.deadline = Some(Duration::ZERO));
    check("reserve_wait", |s| s.reserve_wait = Duration::MAX);
    check("degrade_after", |s| s.degrade_after = Some(Duration::MAX));
    check("pool_size", |s| s.pool_size = Some(0));
    check("pool_size", |s| s.pool_size = Some(3));
    check("reserve_database", |s| s.reserve_database.clear());
    check("reserve_space", |s| s.reserve_space = "x".repeat(64));
    check("ceiling", |s| s.ceiling = Some(Raise::To(0)));
    check("ceiling", |s| (s.ceiling, s.reserve) = (Some(Raise::Auto), true));
    check("ceiling", |s| {
        (s.ceiling, s.settings) = (Some(Raise::Auto), vec![("Max_Parallel_Workers".into(), "9".into())]);
    });
    check("leave", |s| (s.leave, s.ceiling) = (1025, Some(Raise::Auto)));
    check("leave", |s| s.leave = 5);
    check("above_role", |s| s.above_role = true);
    check("settings", |s| s.settings = vec![("work_mem; DROP".into(), "1".into())]);
    for off in ["off", "OF", "false", "n", "0", ""] {
        check("settings.track_activities", |s| {
            s.settings = vec![("Track_Activities".into(), off.into())];
        });
    }
}

#[test]
fn a_session_may_be_told_to_say_what_it_does() {
    let mut settings = Settings::new("rollup");
    for on in ["on", "TRUE", "y", "1"] {
        settings.settings = vec![("track_activities".into(), on.into())];
        settings.validate().unwrap();
    }
}

#[test]
fn a_percentage_is_rounded_up_to_whole_workers() {
    assert_eq!(Minimum::Percent(50).of(4), 2);
    assert_eq!(Minimum::Percent(51).of(4), 3);
    assert_eq!(Minimum::Percent(1).of(4), 1);
    assert_eq!(Minimum::Percent(0).of(4), 0);
}

#[test]
fn a_target_of_one_needs_no_word_of_the_minimum() {
    for (target, minimum) in [(1, 1), (2, 2), (3, 2), (8, 2)] {
        let settings = Settings { target_workers: target, ..Settings::new("rollup") };
        assert_eq!((settings.validate().is_ok(), settings.minimum()), (true, minimum));
    }
    check("min_workers", |s| (s.target_workers, s.min_workers) = (1, Minimum::Workers(2)));
}

#[test]
fn the_target_is_asked_of_each_gather_unless_the_caller_says_otherwise() {
    let mut settings = Settings::new("rollup");
    assert_eq!(
        settings.effective_settings(),
        [("max_parallel_workers_per_gather".to_owned(), "4".to_owned())]
    );
    settings.settings = vec![("Max_Parallel_Workers_Per_Gather".into(), "8".into())];
    assert_eq!(settings.effective_settings().len(), 1);
}
