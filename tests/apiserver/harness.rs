//! A real kube-apiserver on a real etcd, on loopback, for the tests of one binary.
//!
//! [`shared`] starts one server for the whole test binary; each test works in a
//! [`Namespace`] of its own. A test that takes the server away starts one of its
//! own with [`ApiServer::start`]. There is no controller manager: nothing collects
//! garbage and no ServiceAccount makes itself.
//!
//! The programs come from `tests/tools/build.sh`, which builds them when they are
//! missing. They end with the test process, however that ends: see [`Program`].

#![allow(
    dead_code,
    reason = "each test binary that includes this file uses its own part of it"
)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test code"
)]

use std::fs::{self, File};
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use base64::Engine as _;
use glowplug::source::client::client;
use kube::Client;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

/// How long a start may take on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(90);
const ADMIN_TOKEN: &str = "the-admin-of-this-test";

/// One kube-apiserver with its etcd.
pub(crate) struct ApiServer {
    dir: TempDir,
    port: u16,
    server: Mutex<Option<Program>>,
    _etcd: Program,
}

/// The server that all tests of this binary share.
pub(crate) async fn shared() -> &'static ApiServer {
    static SHARED: tokio::sync::OnceCell<ApiServer> = tokio::sync::OnceCell::const_new();
    SHARED.get_or_init(ApiServer::start).await
}

impl ApiServer {
    /// Starts etcd and the server, waits until it is ready, and installs the CRD.
    pub(crate) async fn start() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("glowplug-api-")
            .tempdir()
            .unwrap();
        write_credentials(dir.path());
        let socket = format!("unix://{}/etcd.sock", dir.path().display());
        let etcd = Program::start(
            dir.path(),
            "etcd",
            &[
                &format!("--data-dir={}/etcd", dir.path().display()),
                &format!("--listen-client-urls={socket}"),
                // Must have a port, and nobody reads it.
                "--advertise-client-urls=http://127.0.0.1:1",
                &format!(
                    "--listen-peer-urls=unix://{}/peer.sock",
                    dir.path().display()
                ),
                "--unsafe-no-fsync",
            ],
        );
        let this = Self {
            port: free_port(),
            server: Mutex::new(None),
            _etcd: etcd,
            dir,
        };
        this.write_kubeconfig("admin", ADMIN_TOKEN);
        this.start_again().await;
        this.install_crd().await;
        this
    }

    /// Starts the server after [`ApiServer::stop`], on the same port, and waits
    /// until it is ready.
    pub(crate) async fn start_again(&self) {
        let dir = self.dir.path().display();
        let program = Program::start(
            self.dir.path(),
            "kube-apiserver",
            &[
                &format!("--etcd-servers=unix://{dir}/etcd.sock"),
                &format!("--cert-dir={dir}/certs"),
                "--bind-address=127.0.0.1",
                // There is no network in which a Service could route to the server.
                "--endpoint-reconciler-type=none",
                &format!("--secure-port={}", self.port),
                "--service-cluster-ip-range=10.0.0.0/24",
                "--service-account-issuer=https://kubernetes.default.svc",
                &format!("--service-account-key-file={dir}/sa.pub"),
                &format!("--service-account-signing-key-file={dir}/sa.key"),
                &format!("--token-auth-file={dir}/tokens.csv"),
                "--authorization-mode=RBAC",
                // A short grace period: the tests stop the server on purpose.
                "--shutdown-delay-duration=0s",
            ],
        );
        *self.server.lock().unwrap() = Some(program);
        self.wait_until_ready().await;
    }

    /// Ends the server at once; etcd keeps what it has.
    pub(crate) fn stop(&self) {
        self.server.lock().unwrap().take();
    }

    /// Lets the server accept connections and answer nothing.
    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Undoes [`ApiServer::pause`].
    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        self.server
            .lock()
            .unwrap()
            .as_ref()
            .expect("the server runs")
            .signal(signal);
    }

    /// A client with all rights, for the calling runtime.
    pub(crate) async fn client(&self) -> Client {
        self.client_as("admin").await
    }

    async fn client_as(&self, user: &str) -> Client {
        client(Some(&self.kubeconfig(user))).await.unwrap()
    }

    /// The kubeconfig file of a user that [`ApiServer::write_kubeconfig`] wrote.
    pub(crate) fn kubeconfig(&self, user: &str) -> PathBuf {
        self.dir.path().join(format!("{user}.kubeconfig"))
    }

    /// Writes a kubeconfig file with this token.
    pub(crate) fn write_kubeconfig(&self, user: &str, token: &str) -> PathBuf {
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {
                "server": format!("https://127.0.0.1:{}", self.port),
                "certificate-authority": self.dir.path().join("certs/apiserver.crt"),
            }}],
            "users": [{"name": user, "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": user}}],
        });
        let path = self.kubeconfig(user);
        fs::write(&path, text.to_string()).unwrap();
        path
    }

    async fn wait_until_ready(&self) {
        let deadline = Instant::now() + START_LIMIT;
        let certificate = self.dir.path().join("certs/apiserver.crt");
        loop {
            let answer = if certificate.exists() {
                let request = axum::http::Request::get("/readyz")
                    .body(Vec::new())
                    .unwrap();
                self.client()
                    .await
                    .request_text(request)
                    .await
                    .map_err(|error| error.to_string())
            } else {
                Err("no serving certificate yet".to_owned())
            };
            match answer {
                Ok(_) => return,
                Err(error) if Instant::now() > deadline => {
                    let log = fs::read_to_string(self.dir.path().join("kube-apiserver.log"));
                    panic!(
                        "kube-apiserver is not ready: {error}\n{}",
                        tail(&log.unwrap_or_default())
                    );
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    async fn install_crd(&self) {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("crds/computespecs.yaml");
        self.kubectl(
            &["apply", "--server-side", "-f", file.to_str().unwrap()],
            "",
        )
        .await;
        // It is established, and then announced to clients, a moment later.
        let deadline = Instant::now() + START_LIMIT;
        while let Err(error) = self.try_kubectl(&["get", "compute", "-A"], "").await {
            assert!(Instant::now() < deadline, "{error}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Runs kubectl with all rights and returns its output; panics when it fails.
    pub(crate) async fn kubectl(&self, arguments: &[&str], stdin: &str) -> String {
        self.try_kubectl(arguments, stdin)
            .await
            .unwrap_or_else(|error| panic!("kubectl {arguments:?}: {error}"))
    }

    /// Runs kubectl with all rights: its stdout, or its stderr when it fails.
    pub(crate) async fn try_kubectl(
        &self,
        arguments: &[&str],
        stdin: &str,
    ) -> Result<String, String> {
        let mut command = command(&tools().join("kubectl"));
        command
            .arg("--kubeconfig")
            .arg(self.kubeconfig("admin"))
            .args(arguments);
        // Discovery answers are cached under the home directory otherwise.
        command
            .arg("--cache-dir")
            .arg(self.dir.path().join("kubectl-cache"));
        let stdin = stdin.to_owned();
        let run = move || {
            let mut child = command
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            child
                .stdin
                .take()
                .unwrap()
                .write_all(stdin.as_bytes())
                .unwrap();
            child.wait_with_output().unwrap()
        };
        let output = tokio::task::spawn_blocking(run).await.unwrap();
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            Err(text(&output.stderr))
        }
    }

    /// Makes a namespace with a name of its own.
    pub(crate) async fn namespace(&self, label: &str) -> Namespace<'_> {
        let name = format!("{label}-{:08x}", rand::random::<u32>());
        self.kubectl(&["create", "namespace", &name], "").await;
        Namespace {
            server: self,
            client: self.client().await,
            name,
        }
    }
}

/// A namespace of one test.
pub(crate) struct Namespace<'a> {
    /// The server that it is on.
    pub(crate) server: &'a ApiServer,
    /// A client with all rights.
    pub(crate) client: Client,
    /// Its name.
    pub(crate) name: String,
}

impl Namespace<'_> {
    /// Runs kubectl in this namespace; panics when it fails.
    pub(crate) async fn kubectl(&self, arguments: &[&str]) -> String {
        self.server
            .kubectl(&[&["-n", &self.name], arguments].concat(), "")
            .await
    }

    /// Applies a manifest in this namespace; panics when it is refused.
    pub(crate) async fn apply(&self, manifest: &str) {
        self.server
            .kubectl(&["-n", &self.name, "apply", "-f", "-"], manifest)
            .await;
    }

    /// Applies a manifest in this namespace; the error is kubectl's.
    pub(crate) async fn try_apply(&self, manifest: &str) -> Result<String, String> {
        self.server
            .try_kubectl(&["-n", &self.name, "apply", "-f", "-"], manifest)
            .await
    }

    /// Makes a ServiceAccount that may do only what `rules` (the YAML list of a
    /// Role's `rules`) says, and returns a client with its token.
    pub(crate) async fn restricted_client(&self, account: &str, rules: &str) -> Client {
        let metadata = format!("{{name: {account}, namespace: {}}}", self.name);
        self.apply(&format!(
            "apiVersion: v1\nkind: ServiceAccount\nmetadata: {metadata}\n---\n\
             apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {metadata}\nrules:\n{rules}\n---\n\
             apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {metadata}\n\
             roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: {account}}}\n\
             subjects: [{{kind: ServiceAccount, name: {account}, namespace: {}}}]\n",
            self.name
        ))
        .await;
        let token = self.kubectl(&["create", "token", account]).await;
        let user = format!("{}-{account}", self.name);
        self.server.write_kubeconfig(&user, token.trim());
        self.server.client_as(&user).await
    }

    /// The object as JSON; `Null` when it does not exist.
    pub(crate) async fn get(&self, kind_and_name: &str) -> Value {
        let arguments = ["get", kind_and_name, "-o", "json", "--ignore-not-found"];
        let text = self.kubectl(&arguments).await;
        if text.is_empty() {
            Value::Null
        } else {
            serde_json::from_str(&text).unwrap()
        }
    }
}

/// A child that ends when this value is dropped, and when the test process ends in
/// any other way: a shell waits for the end of a pipe that only we hold, then kills
/// the child and removes the directory. (Values in statics are never dropped.)
struct Program {
    child: Child,
    guard: Child,
}

impl Program {
    fn start(dir: &Path, name: &str, arguments: &[&str]) -> Self {
        let log = File::options()
            .create(true)
            .append(true)
            .open(dir.join(format!("{name}.log")))
            .unwrap();
        let child = command(&tools().join(name))
            .args(arguments)
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let guard = command(Path::new("sh"))
            .args([
                "-c",
                "read -r _; kill -KILL \"$1\"; rm -rf \"$2\"",
                "sh",
                &child.id().to_string(),
            ])
            .arg(dir)
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, guard }
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).unwrap();
        kill_process(pid, signal).unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // The guard first: afterwards the process id may belong to another.
        let _ = self.guard.kill();
        let _ = self.guard.wait();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the programs under test are not glowplug's children"
)]
pub(crate) fn command(program: &Path) -> std::process::Command {
    std::process::Command::new(program)
}

/// The directory of etcd, kube-apiserver and kubectl.
pub(crate) fn tools() -> &'static Path {
    static TOOLS: OnceLock<PathBuf> = OnceLock::new();
    TOOLS.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools/build.sh");
        let output = command(Path::new("bash"))
            .arg(script)
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        assert!(output.status.success(), "tests/tools/build.sh failed");
        PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
    })
}

/// A port below the range from which the kernel takes those of outgoing
/// connections, so that it stays free while the server is away.
fn free_port() -> u16 {
    loop {
        let port = rand::random_range(20_000..32_000);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Writes the admin's token and the key that signs ServiceAccount tokens.
fn write_credentials(dir: &Path) {
    let users = format!("{ADMIN_TOKEN},admin,admin,\"system:masters\"\n");
    fs::write(dir.join("tokens.csv"), users).unwrap();
    let random = ring::rand::SystemRandom::new();
    let private = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
    let pair =
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, private.as_ref(), &random)
            .unwrap();
    // SubjectPublicKeyInfo of an uncompressed P-256 point (RFC 5480).
    let mut public = hex::decode("3059301306072a8648ce3d020106082a8648ce3d030107034200").unwrap();
    public.extend_from_slice(pair.public_key().as_ref());
    fs::write(dir.join("sa.key"), pem("PRIVATE KEY", private.as_ref())).unwrap();
    fs::write(dir.join("sa.pub"), pem("PUBLIC KEY", &public)).unwrap();
}

fn pem(label: &str, der: &[u8]) -> String {
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<_> = body
        .as_bytes()
        .chunks(64)
        .map(|line| String::from_utf8_lossy(line).into_owned())
        .collect();
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        lines.join("\n")
    )
}

fn tail(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
