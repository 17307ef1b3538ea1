//! Passwords of all characters, in all the places where people put them: no piece of one is ever said.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use testkit::server::PrivateServer;

use crate::lab::{Lab, Ran, finish, spawn};

/// What ends something in a URL, a keyword string, a service file, a password file or a shell.
const ODD: &[u8] = b"/?@#:%[]&=+,;$ '\"\\!*";
const PLAIN: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";

/// Shorter pieces are found in any text.
const PIECE: usize = 4;

fn passwords(seed: u64, number: usize) -> impl Iterator<Item = String> {
    let mut random = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(move || {
        let length = random.usize(8..20);
        let characters = std::iter::repeat_with(|| {
            let from = if random.u8(..3) == 0 { ODD } else { PLAIN };
            char::from(from[random.usize(..from.len())])
        });
        characters.take(length).collect::<String>()
    })
    .take(number)
}

/// Nothing of the password is in what was said or printed.
fn check(ran: &Ran, password: &str, what: &str) {
    for piece in password.as_bytes().windows(PIECE) {
        let piece = std::str::from_utf8(piece).unwrap();
        // Punctuation alone is in any message.
        if piece.bytes().filter(u8::is_ascii_alphanumeric).count() < 2 {
            continue;
        }
        let shown = [&ran.out, &ran.said].iter().any(|text| text.contains(piece));
        assert!(!shown, "{what}\n{password}: {piece:?} is in\n{}{}", ran.out, ran.said);
    }
}

/// Everything that connects, with what it needs besides.
const COMMANDS: [&[&str]; 5] = [
    &["run", "--plan-shortfall", "ignore", "--attempts", "1", "--json", "--sql", "SELECT 1"],
    &[
        "update",
        "--table",
        "t",
        "--key",
        "id",
        "--set",
        "a=b",
        "--keys",
        "/dev/null",
        "--reconnect-wait",
        "5s",
    ],
    &["explain", "--sql", "SELECT 1"],
    &["watch", "--once"],
    &["doctor", "--json"],
];

/// Runs one command after another, with a connection string in the place that `place` names.
fn run(turn: usize, options: &[&str], environment: &[(&str, &str)]) -> Ran {
    let mut arguments = COMMANDS[turn % COMMANDS.len()].to_vec();
    arguments.extend(options);
    let mut all = vec![("RUST_LOG", "trace")];
    all.extend(environment);
    finish(spawn(&arguments, &all))
}

fn private(folder: &Path, name: &str, text: &str) -> String {
    let file = folder.join(name);
    std::fs::write(&file, text).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    file.display().to_string()
}

#[test]
fn no_piece_of_a_password_is_said_wherever_it_stands_and_whatever_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    // Nobody listens there.
    let port = crate::port::free_port();
    let rest = format!("127.0.0.1:{port}/db");
    for (turn, password) in passwords(20_261_127, 16).enumerate() {
        let quoted = password.replace('\\', "\\\\").replace('\'', "\\'");
        let keywords = format!("host=127.0.0.1 port={port} user=u dbname=db");
        let strings = [
            format!("postgres://u:{password}@{rest}"),
            format!("postgresql://{password}@{rest}"),
            format!("postgres://u:{password}@{rest}?sslmode=verify-full"),
            format!("postgres://u@{rest}?password={password}"),
            format!("u:{password}@{rest}"),
            format!("jdbc:postgresql://{rest}?user=u&password={password}"),
            format!("postgresql+psycopg2://u:{password}@{rest}"),
            format!("{keywords} password='{quoted}'"),
            format!("{keywords} password={password}"),
            format!("password={password} {keywords} options=-c"),
        ];
        for (place, text) in strings.iter().enumerate() {
            // In turn, since each is a process.
            let ran = match (turn + place) % 6 {
                0 => run(place, &["--dsn", text], &[]),
                1 => run(place, &[], &[("DATABASE_URL", text)]),
                2 => run(0, &["--monitor-dsn", text, "--dsn", &keywords], &[]),
                3 => run(4, &["--monitor-dsn", text, "--dsn", &keywords], &[]),
                4 => run(place, &[text], &[]),
                _ => run(place, &[], &[("PGDATABASE", text), ("PGHOST", "127.0.0.1"), ("PGPORT", "1")]),
            };
            assert_ne!(ran.code, Some(0), "{text}");
            assert_ne!(ran.code, Some(101), "{text}\n{}", ran.said);
            check(&ran, &password, text);
        }
        for variable in ["PGHOST", "PGSERVICE", "PGSSLROOTCERT", "PGREQUIREAUTH", "PGPORT", "PGSSLMODE"] {
            let text = format!("postgres://u:{password}@{rest}");
            // A file's name is said where it cannot be read: nobody has a password there.
            if variable != "PGSSLROOTCERT" {
                check(&run(turn, &[], &[(variable, &text)]), &password, variable);
            }
        }
        check(&run(turn, &["--dsn", &keywords], &[("PGPASSWORD", &password)]), &password, "PGPASSWORD");
        let service =
            format!("[a]\nhost=127.0.0.1\nport={port}\nuser=u\npassword={password}\n[b]\n{password}\n");
        let file = private(folder.path(), "services", &service);
        for name in ["a", "b", "c"] {
            let ran = run(turn, &[], &[("PGSERVICEFILE", &file), ("PGSERVICE", name)]);
            check(&ran, &password, "service");
        }
        let passfile = private(folder.path(), "pgpass", &format!("*:*:*:*:{password}\n"));
        check(&run(turn, &["--dsn", &keywords], &[("PGPASSFILE", &passfile)]), &password, "PGPASSFILE");
        for option in ["--push", "--otlp"] {
            let url = format!("http://u:{password}@127.0.0.1:{port}");
            check(&run(0, &["--dsn", &keywords, option, &url], &[]), &password, option);
        }
    }
}

#[test]
fn no_piece_of_a_password_is_said_by_a_server_that_refuses_it() {
    let lab = Lab::with(PrivateServer::builder().password("right"));
    let dsn = lab.dsn().replace(":right@", "@");
    for (turn, password) in passwords(7, 10).enumerate() {
        let encoded = password.bytes().fold(String::new(), |text, byte| format!("{text}%{byte:02X}"));
        let ran = run(turn, &["--dsn", &dsn.replacen('@', &format!(":{encoded}@"), 1)], &[]);
        assert!(ran.said.contains("password authentication failed"), "{}", ran.said);
        check(&ran, &password, "URL");
        check(&run(turn, &["--dsn", &dsn], &[("PGPASSWORD", &password)]), &password, "PGPASSWORD");
    }
}

#[test]
fn a_password_with_a_slash_that_is_not_encoded_is_a_usage_error_that_says_what_to_write() {
    for password in ["/Qx7Secret", "7/Qx7Secret", "a@Qx7Secret", "a@b/Qx7Secret"] {
        let dsn = format!("postgres://batch:{password}@127.0.0.1:1/db");
        let ran = run(4, &["--dsn", &dsn], &[]).ended(2);
        assert!(
            ran.said.contains("`/`, `@` and `%` inside a password are written as %2F, %40 and %25")
                && !ran.said.contains("Secret"),
            "{}",
            ran.said
        );
    }
}
