//! The server against this crate's own client, and against raw bytes.

use bytes::BufMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::error::Category;
use crate::pgwire::{ConnectConfig, Connection};

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn client(address: SocketAddr, token: Option<&str>) -> ConnectConfig {
    ConnectConfig {
        password: token.map(Secret::new),
        parameters: vec![("options".to_owned(), "-c a=b".to_owned())],
        ..ConnectConfig::tcp(address.ip().to_string(), address.port(), "no_user")
    }
}

async fn accept(listener: TcpListener, config: ServerConfig) -> Result<Option<Session>, Error> {
    let (stream, _) = listener.accept().await.unwrap();
    Session::accept(stream, &config).await
}

#[tokio::test]
async fn queries_are_answered_with_rows_and_errors() {
    let (listener, address) = listen().await;
    let server = tokio::spawn(async move {
        let mut session = accept(listener, ServerConfig::default())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(session.startup().option("a"), Some("b"));
        while let Some(query) = session.next_query().await.unwrap() {
            if query == "fail" {
                session.error("XX000", "as wanted");
            } else {
                let columns = [Column::text("q"), Column::int4("n")];
                session.rows(&columns, &[vec![Some(query), None]], "SELECT 1");
            }
            session.ready().await.unwrap();
        }
    });
    let mut connection = Connection::connect(&client(address, None)).await.unwrap();
    assert_eq!(connection.parameter("server_version"), Some("14.1"));
    let failed = connection.simple_query("fail").await.unwrap_err();
    assert!(failed.to_string().contains("as wanted"), "{failed}");
    let rows = connection.simple_query("x").await.unwrap();
    assert_eq!(rows[0].0, [Some("x".to_owned()), None]);
    drop(connection);
    server.await.unwrap();
}

#[tokio::test]
async fn a_wrong_token_is_refused_and_the_right_one_is_not() {
    for (given, works) in [("right", true), ("wrong", false), ("righ", false)] {
        let (listener, address) = listen().await;
        let config = ServerConfig {
            token: Some(Secret::new("right")),
            ..ServerConfig::default()
        };
        let server = tokio::spawn(accept(listener, config));
        let connected = Connection::connect(&client(address, Some(given))).await;
        assert_eq!(connected.is_ok(), works);
        if let Err(error) = connected {
            assert!(
                error.to_string().contains("JWT authentication error"),
                "{error}"
            );
            assert_eq!(error.category(), "ServerError");
        }
        assert_eq!(server.await.unwrap().is_ok(), works);
    }
}

#[tokio::test]
async fn streams_run_in_both_directions() {
    let (listener, address) = listen().await;
    let server = tokio::spawn(async move {
        let mut session = accept(listener, ServerConfig::default())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(
            session.next_query().await.unwrap().as_deref(),
            Some("START")
        );
        let (mut receiver, mut sender) = session.copy_both().await.unwrap();
        while let CopyInput::Data(piece) = receiver.next().await.unwrap() {
            sender.data(|out| out.put_slice(&piece));
            sender.flush().await.unwrap();
        }
        sender.done();
        sender.close().await.unwrap();
    });
    let connection = Connection::connect(&client(address, None)).await.unwrap();
    let mut stream = connection.copy_both("START").await.unwrap();
    stream.writer.send(b"abc").await.unwrap();
    assert_eq!(
        stream.reader.next().await.unwrap().as_deref(),
        Some(&b"abc"[..])
    );
    drop(stream);
    server.await.unwrap();
}

/// Sends `bytes` in one write, and collects what comes until the server closes.
async fn exchange(bytes: &[u8], config: ServerConfig) -> Vec<u8> {
    let (listener, address) = listen().await;
    let server = tokio::spawn(async move {
        let Ok(Some(mut session)) = accept(listener, config).await else {
            return;
        };
        while let Ok(Some(query)) = session.next_query().await {
            session.complete(&query);
            session.ready().await.unwrap();
        }
    });
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    server.await.unwrap();
    answer
}

#[tokio::test]
async fn encryption_is_declined_and_the_rest_of_the_write_is_served() {
    let request = b"\0\0\0\x08\x04\xd2\x16\x30\0\0\0\x08\x04\xd2\x16\x2f\
        \0\0\0\x13\0\x03\0\0user\0bob\0\0\0Q\0\0\0\x06x\0";
    let answer = exchange(request, ServerConfig::default()).await;
    assert!(answer.starts_with(b"NNR\0\0\0\x08\0\0\0\0S"));
    assert!(answer.ends_with(b"Z\0\0\0\x05IC\0\0\0\x06x\0Z\0\0\0\x05I"));
}

#[tokio::test]
async fn malformed_start_ends_the_connection_without_a_word() {
    for bytes in [
        &b"\x16\x03\x01\x02\0"[..],
        b"\0\0\0\x07xxx",
        b"\0\0\x27\x11xxxx",
        b"\0\0\0\x0c\0\x03\0\0user",
        b"\0\0\0\x08\x04\xd2\x16\x2e",
    ] {
        assert!(exchange(bytes, ServerConfig::default()).await.is_empty());
    }
}

#[tokio::test]
async fn extended_queries_are_refused_up_to_the_sync() {
    let request = b"\0\0\0\x08\0\x03\0\0P\0\0\0\x04B\0\0\0\x04S\0\0\0\x04Q\0\0\0\x06x\0";
    let answer = exchange(request, ServerConfig::default()).await;
    let errors = answer
        .windows(6)
        .filter(|window| *window == b"C0A000")
        .count();
    assert_eq!(errors, 1);
    assert!(answer.ends_with(b"Z\0\0\0\x05IC\0\0\0\x06x\0Z\0\0\0\x05I"));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_starts_up_is_dropped() {
    let (listener, address) = listen().await;
    let stream = TcpStream::connect(address).await.unwrap();
    let result = accept(listener, ServerConfig::default()).await;
    assert!(matches!(result, Err(Error::HandshakeTimeout { .. })));
    drop(stream);
}

#[tokio::test]
async fn a_connection_outlives_its_copy_streams() {
    let (listener, address) = listen().await;
    let server = tokio::spawn(async move {
        let config = ServerConfig {
            parameters: &[("nodes", "two")],
            ..ServerConfig::default()
        };
        let mut session = accept(listener, config).await.unwrap().unwrap();
        session.next_query().await.unwrap().unwrap();
        let (receiver, mut sender) = session.copy_both().await.unwrap();
        sender.error("XX000", "not found");
        let mut session = Session::rejoin(receiver, sender);
        session.ready().await.unwrap();
        let query = session.next_query().await.unwrap();
        assert_eq!(session.startup().option("a"), Some("b"));
        query
    });
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut bytes = bytes::BytesMut::new();
    let parameters = [("options", "-c a=b")];
    postgres_protocol::message::frontend::startup_message(parameters, &mut bytes).unwrap();
    postgres_protocol::message::frontend::query("pagestream", &mut bytes).unwrap();
    postgres_protocol::message::frontend::query("again", &mut bytes).unwrap();
    stream.write_all(&bytes).await.unwrap();
    assert_eq!(server.await.unwrap().as_deref(), Some("again"));
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let text = String::from_utf8_lossy(&answer);
    assert!(text.contains("nodes\0two\0"), "{text}");
    assert!(answer.ends_with(b"Z\0\0\0\x05I"), "{text}");
}
