//! Decides who may log in, as the text of pg_hba.conf.

/// Lets every role in by its password, from everywhere. `md5` also checks SCRAM
/// verifiers; upstream appends exactly this line.
const BY_PASSWORD: &str = "host\tall\t\tall\t\tall\t\tmd5";

/// For Neon's postgres: what the backup brought, which trusts the socket and
/// loopback, and whoever has a password. `None` if the line is there already.
pub fn with_password_line(existing: &str) -> Option<String> {
    if existing.lines().any(|line| line == BY_PASSWORD) {
        return None;
    }
    let separator = if existing.is_empty() || existing.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    Some(format!("{existing}{separator}{BY_PASSWORD}\n"))
}

/// For unmodified PostgreSQL. Only who can open the socket, which is the user that
/// postgres runs as and root, logs in without a password: the relay and the catalog
/// do. Loopback is trusted only where the caller says so, which no pod should:
/// everything in a pod shares it.
pub fn vanilla(trust_loopback: bool) -> String {
    let loopback = if trust_loopback {
        "host\tall\t\tall\t\t127.0.0.1/32\ttrust\n\
         host\tall\t\tall\t\t::1/128\t\ttrust\n"
    } else {
        ""
    };
    format!(
        "# Written by glowplug at every start.\n\
         local\tall\t\tall\t\t\t\ttrust\n\
         local\treplication\tall\t\t\t\ttrust\n\
         {loopback}{BY_PASSWORD}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_appended_once() {
        let stock = "local all all trust\n";
        let appended = with_password_line(stock).unwrap();
        assert_eq!(
            appended,
            "local all all trust\nhost\tall\t\tall\t\tall\t\tmd5\n"
        );
        assert_eq!(with_password_line(&appended), None);
        assert_eq!(
            with_password_line("local all all trust"),
            Some(appended.clone())
        );
    }

    #[test]
    fn loopback_needs_a_password() {
        let hba = vanilla(false);
        let by_tcp = hba.lines().filter(|line| line.starts_with("host"));
        assert_eq!(by_tcp.collect::<Vec<_>>(), [BY_PASSWORD]);
    }
}
