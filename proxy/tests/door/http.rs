//! HTTP CONNECT, the pages, and the proxy configuration.

use std::process::Command;

use crate::world::{ERRORS, World, expect, is_missing, rest};
use phantom_proxy::{Access, Config, Elsewhere, Host, Isolation, Limits, Pac, Password};
use tokio::io::AsyncWriteExt;

const CONNECTED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

async fn ask(world: &World, request: &str) -> String {
    let mut client = world.client_saying(&[request.as_bytes()]).await;
    client.shutdown().await.unwrap();
    String::from_utf8(rest(&mut client).await).unwrap()
}

#[tokio::test]
async fn every_kind_of_destination_reaches_the_dialler() {
    let mut world = World::new(Limits::default()).await;
    let name = |name: &str| Host::Name(name.into());
    let ip = |ip: &str| Host::Ip(ip.parse().unwrap());
    let pair = Isolation::Credentials { user: b"alice".to_vec(), password: b"a:b".to_vec() };
    let none = Isolation::Default;
    let destinations = [
        ("CONNECT far.example:443 HTTP/1.1\r\nHost: x\r\n\r\n", name("far.example"), 443, none.clone()),
        ("CONNECT 192.0.2.7:1 HTTP/1.0\r\n\r\n", ip("192.0.2.7"), 1, none.clone()),
        ("CONNECT [fc00::1]:80 HTTP/1.1\nA: b\n\n", ip("fc00::1"), 80, none),
        (
            "CONNECT far.example:80 HTTP/1.1\r\nproxy-authorization: basic YWxpY2U6YTpi\r\n\r\n",
            name("far.example"),
            80,
            pair,
        ),
    ];
    for (head, host, port, isolation) in destinations {
        let mut client = world.client_saying(&[head.as_bytes(), b"early"]).await;
        expect(&mut client, CONNECTED).await;
        let request = world.requests.recv().await.unwrap();
        assert!(request.host == host && request.port == port && request.isolation == isolation, "{head}");
        let (mut far, _) = world.far.accept().await.unwrap();
        expect(&mut far, b"early").await;
        far.write_all(b"answer").await.unwrap();
        expect(&mut client, b"answer").await;
    }
}

#[tokio::test]
async fn credentials_that_are_no_pair_are_not_taken_for_none() {
    let mut world = World::new(Limits::default()).await;
    for credentials in ["", "Basic", "Basic !", "Basic YWxpY2U=", "Bearer YWxpY2U6YTpi"] {
        let head = format!("CONNECT far.example:80 HTTP/1.1\r\nProxy-Authorization: {credentials}\r\n\r\n");
        assert!(ask(&world, &head).await.starts_with("HTTP/1.1 407 "), "{credentials}");
    }
    assert!(world.requests.try_recv().is_err());
}

#[tokio::test]
async fn each_error_has_its_status_and_a_sentence() {
    let world = World::new(Limits::default()).await;
    for (name, error) in ERRORS {
        let status = match name {
            "not-allowed" | "f4" | "f5" => "403 Forbidden",
            "no-host" | "f0" | "f1" | "f2" | "f3" | "f6" => "404 Not Found",
            "no-command" => "501 Not Implemented",
            "timed-out" | "f7" => "504 Gateway Timeout",
            _ => "502 Bad Gateway",
        };
        let answer = ask(&world, &format!("CONNECT {name}:80 HTTP/1.1\r\n\r\nahead")).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{name}: {answer}");
        assert!(answer.ends_with(&format!("\r\n\r\nNot connected: {error}.\n")), "{name}: {answer}");
    }
}

#[tokio::test]
async fn what_is_no_request_is_answered_with_400() {
    let mut world = World::new(Limits::default()).await;
    for head in [
        "CONNECT far.example HTTP/1.1\r\n\r\n",
        "CONNECT far.example: HTTP/1.1\r\n\r\n",
        "CONNECT far.example:+80 HTTP/1.1\r\n\r\n",
        "CONNECT far.example:65536 HTTP/1.1\r\n\r\n",
        "CONNECT fc00::1:80 HTTP/1.1\r\n\r\n",
        "CONNECT :80 HTTP/1.1\r\n\r\n",
        "CONNECT far.example:80\r\n\r\n",
        "CONNECT far.example:80 HTTP/1.1 more\r\n\r\n",
        "CONNECT far.example:80 SIP/2.0\r\n\r\n",
        "HELO\r\n\r\n",
    ] {
        let answer = ask(&world, head).await;
        assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{head}: {answer}");
    }
    let endless = format!("CONNECT far.example:80 HTTP/1.1\r\nA: {}", "a".repeat(20_000));
    assert!(ask(&world, &endless).await.starts_with("HTTP/1.1 400 "));
    assert!(world.requests.try_recv().is_err());
}

#[tokio::test]
async fn whoever_takes_it_for_something_else_is_told_what_it_is() {
    let world = World::new(Limits::default()).await;
    for (head, status) in [
        ("GET http://example.com/ HTTP/1.1\r\nHost: example.com\r\n\r\n", "501"),
        ("POST http://example.com/ HTTP/1.1\r\nHost: example.com\r\n\r\nbody", "501"),
        ("GET / HTTP/1.1\r\nHost: 127.0.0.1:9070\r\n\r\n", "200"),
        ("GET / HTTP/1.1\r\nHost: [::1]:9070\r\n\r\n", "200"),
        ("GET / HTTP/1.1\r\nHost: LOCALHOST\r\n\r\n", "200"),
        ("GET /proxy.pac HTTP/1.1\r\n\r\n", "404"),
    ] {
        let answer = ask(&world, head).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{head}: {answer}");
        assert!(answer.contains(&format!("--socks5-hostname {} ", world.proxy)), "{answer}");
        let body = answer.split_once("\r\n\r\n").unwrap().1;
        assert!(answer.contains(&format!("Content-Length: {}\r\n", body.len())), "{answer}");
    }
    let answer = ask(&world, "HEAD / HTTP/1.1\r\n\r\n").await;
    assert!(answer.ends_with("\r\n\r\n") && answer.matches("\r\n\r\n").count() == 1, "{answer}");
}

#[tokio::test]
async fn a_site_cannot_see_through_a_browser_what_this_port_is() {
    let pac = Pac::new("ap", Elsewhere::Direct);
    let world = World::with(Config { pac, ..Config::default() }).await;
    for target in ["/", "/proxy.pac", "/other"] {
        let rebound = ask(&world, &format!("GET {target} HTTP/1.1\r\nHost: evil.example:80\r\n\r\n")).await;
        assert!(rebound.starts_with("HTTP/1.1 421 ") && !rebound.contains("SOCKS"), "{rebound}");
        let embedded = ask(&world, &format!("GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")).await;
        assert!(embedded.contains("\r\nX-Content-Type-Options: nosniff\r\n"), "{embedded}");
        assert!(embedded.contains("\r\nCross-Origin-Resource-Policy: same-origin\r\n"), "{embedded}");
    }
}

#[tokio::test]
async fn a_proxy_for_other_machines_wants_its_password() {
    let access = Access::Remote(Password::new("a long password").unwrap());
    let mut world = World::with(Config { access, ..Config::default() }).await;
    for header in ["", "Proxy-Authorization: Basic YWxpY2U6d3Jvbmc=\r\n", "Proxy-Authorization: Basic !\r\n"]
    {
        let answer = ask(&world, &format!("CONNECT far.example:80 HTTP/1.1\r\n{header}\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 407 ") && answer.contains("\r\nProxy-Authenticate: Basic "));
    }
    assert!(world.requests.try_recv().is_err());
    let head =
        "CONNECT far.example:80 HTTP/1.1\r\nProxy-Authorization: Basic YWxpY2U6YSBsb25nIHBhc3N3b3Jk\r\n\r\n";
    expect(&mut world.client_saying(&[head.as_bytes()]).await, CONNECTED).await;
}

/// What the script says for a host; nothing where no JavaScript is installed.
fn decide(script: &str, host: &str) -> Option<String> {
    let helper = "function dnsDomainIs(host, domain) { return host.endsWith(domain); }";
    let call = format!("{helper}\n{script}\nconsole.log(FindProxyForURL('http://x/', '{host}'));");
    let Ok(output) = Command::new("node").args(["-e", &call]).output() else {
        is_missing("node");
        return None;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap().trim().to_owned())
}

#[tokio::test]
async fn a_browser_is_configured_by_a_script() {
    for (elsewhere, other) in [(Elsewhere::Direct, "DIRECT"), (Elsewhere::Here, "here")] {
        let pac = Pac::new("ap", elsewhere).map(|pac| pac.with_addresses(0xfc));
        let world = World::with(Config { pac, ..Config::default() }).await;
        let answer = ask(&world, "GET /proxy.pac HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").await;
        let (head, script) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("Content-Type: application/x-ns-proxy-autoconfig"), "{head}");
        let here = format!("SOCKS5 {}", world.proxy);
        let other = if other == "here" { here.clone() } else { other.to_owned() };
        assert!(script.contains(&here) && script.contains(&format!("return \"{other}\";\n}}")), "{script}");
        for host in ["name.ap", "WWW.NAME.AP", "name.ap.", "[fc00::1]", "fcab:1::2"] {
            assert!(decide(script, host).is_none_or(|said| said == here), "{host}");
        }
        for host in ["example.com", "ap", "notap", "name.ap.com", "fc00.example", "[fd00::1]", "127.0.0.1"] {
            assert!(decide(script, host).is_none_or(|said| said == other), "{host}");
        }
    }
}
