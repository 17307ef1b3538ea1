//! Hosted pools that are known by the name of their host, and the way past each.
//!
//! "Connect to the server itself" helps nobody who has never seen its name. The names are the providers' own, as
//! their manuals give them.

/// Somebody's pool or server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hosting {
    /// Supavisor: port 6543 pools transactions, port 5432 sessions.
    SupabasePool,
    /// RDS Proxy: it pools transactions until a session has settings of its own, and keeps such a one ("pins" it).
    RdsProxy,
    /// `PgBouncer` in transaction mode, by a name of its own.
    NeonPool,
    /// Neon without a pool.
    Neon,
    /// Azure's built-in `PgBouncer`.
    AzurePool,
}

impl Hosting {
    pub(super) fn of(host: &str, port: u16) -> Option<Self> {
        let host = host.to_ascii_lowercase();
        let labels: Vec<&str> = host.split('.').collect();
        let is_in = |domain: &str| host.ends_with(domain);
        if is_in(".pooler.supabase.com") || (is_in(".supabase.co") && port == 6543) {
            Some(Self::SupabasePool)
        } else if is_in(".rds.amazonaws.com") && labels.iter().any(|label| label.starts_with("proxy-")) {
            Some(Self::RdsProxy)
        } else if is_in(".neon.tech") {
            let pools = labels.first().is_some_and(|label| label.ends_with("-pooler"));
            Some(if pools { Self::NeonPool } else { Self::Neon })
        } else if is_in(".postgres.database.azure.com") && port == 6432 {
            Some(Self::AzurePool)
        } else {
            None
        }
    }

    /// The way to sessions with a backend of their own, to be typed or done.
    pub(super) const fn way_past(self) -> Option<&'static str> {
        Some(match self {
            Self::SupabasePool => {
                "Supabase: port 5432 of the same host pools sessions, and db.PROJECT.supabase.co:5432 is the server itself"
            }
            Self::RdsProxy => {
                "RDS Proxy: connect to the endpoint of the instance or cluster; the proxy pins each session that sets something, as all do here"
            }
            Self::NeonPool => "Neon: the same host without `-pooler` is the server itself",
            Self::Neon => return None,
            Self::AzurePool => "Azure: port 5432 of the same host is the server itself",
        })
    }

    /// What to know of it even where all is well.
    pub(super) const fn note(self) -> Option<&'static str> {
        match self {
            Self::RdsProxy => Some(
                "RDS Proxy pins each session that sets something, as all do here: each takes a connection of its own for as long as it lasts",
            ),
            Self::Neon | Self::NeonPool => Some(
                "Neon suspends a server after some minutes without a running statement and cuts its sessions; the first connection afterwards takes longer (connect_timeout)",
            ),
            Self::SupabasePool | Self::AzurePool => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_are_known_by_their_names() {
        for (host, port, expected) in [
            ("aws-0-eu-central-1.pooler.supabase.com", 6543, Some(Hosting::SupabasePool)),
            ("db.abcdefgh.supabase.co", 6543, Some(Hosting::SupabasePool)),
            ("db.abcdefgh.supabase.co", 5432, None),
            ("shop.proxy-abc123.eu-west-1.rds.amazonaws.com", 5432, Some(Hosting::RdsProxy)),
            ("shop.abc123.eu-west-1.rds.amazonaws.com", 5432, None),
            ("ep-cool-name-123456-pooler.eu-central-1.aws.neon.tech", 5432, Some(Hosting::NeonPool)),
            ("ep-cool-name-123456.eu-central-1.aws.neon.tech", 5432, Some(Hosting::Neon)),
            ("shop.postgres.database.azure.com", 6432, Some(Hosting::AzurePool)),
            ("shop.postgres.database.azure.com", 5432, None),
            ("db.example.com", 6543, None),
        ] {
            assert_eq!(Hosting::of(host, port), expected, "{host}:{port}");
        }
    }
}
