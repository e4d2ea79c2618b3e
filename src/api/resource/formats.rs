//! The text formats that the schema accepts, as patterns that mean the same to the
//! API server (Go's RE2) and to the local check.

/// A host name or address; an IPv6 address stands in brackets.
macro_rules! host {
    () => {
        r"([A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?|\[[0-9A-Fa-f:.]+\])"
    };
}

/// A TCP port, 1 to 65535.
macro_rules! port {
    () => {
        "([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
    };
}

/// `host:port` of a URL behind its scheme, with or without a user and a port.
macro_rules! authority {
    () => {
        concat!(
            "([A-Za-z0-9_.~%!-]*(:[!-.0-9;->A-Z^-~]*)?@)?",
            host!(),
            "(:",
            port!(),
            ")?"
        )
    };
}

/// 16 bytes as 32 hex digits.
pub const HEX_ID: &str = "^[0-9a-f]{32}$";

/// A position in the write-ahead log, as PostgreSQL writes it.
pub const LSN: &str = "^[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}$";

/// A setting's name; a dot separates an extension's prefix.
pub const SETTING_NAME: &str = r"^[A-Za-z_][A-Za-z0-9_$]*(\.[A-Za-z_][A-Za-z0-9_$]*)*$";

/// Text without line breaks and NUL: postgresql.conf has one setting a line.
pub const ONE_LINE: &str = r"^[^\x00\r\n]*$";

/// Text without NUL, which SQL cannot carry.
pub const NO_NUL: &str = r"^[^\x00]*$";

/// Name of a Kubernetes object.
pub const OBJECT_NAME: &str = r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$";

/// Key of a Secret or ConfigMap.
pub const DATA_KEY: &str = r"^[A-Za-z0-9._-]+$";

/// `host:port`.
pub const HOST_PORT: &str = concat!("^", host!(), ":", port!(), "$");

/// A pageserver's libpq address: a URL, or `host=… port=…`.
pub const LIBPQ_ADDRESS: &str = concat!(
    "^(postgres(ql)?://",
    authority!(),
    r"([/?][!-~]*)?|[a-z_]+ *= *[!-~][ -~]*)$"
);

/// A pageserver's gRPC address.
pub const GRPC_ADDRESS: &str = concat!("^grpcs?://", authority!(), "/?$");

/// The address of an HTTP server.
pub const HTTP_ADDRESS: &str = concat!("^https?://", host!(), "(:", port!(), ")?(/[!-~]*)?$");

/// A password verifier as PostgreSQL stores it.
pub const VERIFIER: &str = r"^(SCRAM-SHA-256\$[1-9][0-9]{0,9}:[A-Za-z0-9+/=]+\$[A-Za-z0-9+/=]+:[A-Za-z0-9+/=]+|md5[0-9a-f]{32})$";

/// Name of an option in SQL: words.
pub const OPTION_NAME: &str = "^[A-Za-z_]+( [A-Za-z_]+)*$";

/// A duration of hours, minutes and seconds, like `1h30m`.
pub const DURATION: &str = "^([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,9}s)?$";

/// A quantity of Kubernetes, like `500m` or `2Gi`.
pub const QUANTITY: &str =
    r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?[0-9]+))?$";

/// An absolute path of a file.
pub const ABSOLUTE_PATH: &str = r"^/[^\x00\r\n']*$";

/// A key of pgbouncer.ini.
pub const INI_KEY: &str = "^[A-Za-z_][A-Za-z0-9_]*$";

/// What to write instead of a text that does not match the pattern.
pub fn advice(pattern: &str) -> &'static str {
    match pattern {
        HEX_ID => "write 32 hex digits in lower case, in quotes",
        LSN => "write two hex numbers of up to 8 digits, like 0/16B9188",
        SETTING_NAME => {
            "write a setting's name: letters, digits and _, perhaps after a prefix and a dot"
        }
        ONE_LINE => "keep it on one line",
        NO_NUL => "leave the NUL character out",
        OBJECT_NAME => {
            "write the name of a Kubernetes object: lower-case letters, digits, '-' and '.'"
        }
        DATA_KEY => "write a key of the Secret: letters, digits, '-', '_' and '.'",
        HOST_PORT => "write host:port, without a scheme or user",
        LIBPQ_ADDRESS => "write postgresql://host:6400, or host=… port=…",
        GRPC_ADDRESS => "write grpc://host:51051",
        HTTP_ADDRESS => "write http://host:port or https://host:port",
        VERIFIER => {
            "write what pg_authid.rolpassword has: SCRAM-SHA-256$… or md5…; refer to a password by secretKeyRef"
        }
        OPTION_NAME => "write the option's name as in SQL, like CONNECTION LIMIT",
        QUANTITY => "write a quantity, like 500m or 2Gi",
        DURATION => "write hours, minutes and seconds, like 1h30m or 90s",
        ABSOLUTE_PATH => "write a path that starts with /",
        INI_KEY => "write the key as pgbouncer.ini has it, like default_pool_size",
        _ => "write it as the field's description says",
    }
}
