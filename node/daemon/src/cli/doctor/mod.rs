//! `phantom doctor`: what is in order, and what to paste where something is not. It reads, and changes nothing.

mod machine;
mod probe;
mod resolver;

use std::{net::SocketAddr, path::Path};

use super::{Negative, Whom, running::DNS, say};
use crate::doors::{Status, local_socket::ClientError};
use machine::Machine;
use resolver::{Advice, PROPOSED, find};

/// Find out whether the node works, and what makes this machine send .ap to it
///
/// Looks whether the node runs and its ports answer, and which resolver the programs of this machine use: systemd-resolved,
/// dnsmasq, unbound, with or without NetworkManager, or none. Prints what to paste so that it sends .ap to the node's DNS port.
/// It changes nothing itself.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  phantom doctor
  phantom doctor --ask      after pasting what it said

Exit codes: 0 all is in order, 1 could not be found out, 2 wrong usage, 3 something is to be done.")]
pub(super) struct Args {
    /// Also ask the machine's resolver for a made-up name; if it is not set up, the question may leave the machine
    #[arg(long)]
    ask: bool,
    #[command(flatten)]
    whom: Whom,
}

/// All that was found out.
struct Facts {
    /// The node, or why there is none.
    node: Result<NodeFacts, String>,
    machine: Machine,
    /// Whether the resolver of the machine gave the right answer, if it was asked.
    asked: Option<Result<(), String>>,
}

struct NodeFacts {
    status: Status,
    socks_answers: Result<(), String>,
    dns_answers: Result<(), String>,
}

/// One line of what is said, with what is to be done.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    about: &'static str,
    is_good: bool,
    text: String,
    paste: Option<String>,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let facts = Facts {
        node: node(&args.whom).await?,
        machine: Machine::read(Path::new("/"), &PROPOSED).with_systemd(),
        asked: if args.ask { Some(probe::ask_machine().await) } else { None },
    };
    let findings = judge(&facts);
    say(&render(&findings))?;
    match findings.iter().filter(|finding| !finding.is_good).count() {
        0 => Ok(()),
        1 => Err(Negative("one thing is to be done, see above".into()).into()),
        count => Err(Negative(format!("{count} things are to be done, see above")).into()),
    }
}

async fn node(whom: &Whom) -> anyhow::Result<Result<NodeFacts, String>> {
    let client = whom.connect().await;
    let mut client = match client {
        Err(error) if matches!(error.downcast_ref(), Some(ClientError::NotRunning(_))) => {
            return Ok(Err(error.to_string()));
        }
        client => client?,
    };
    let status = client.status().await?;
    let socks_answers = match status.socks {
        Some(address) => probe::ask_proxy(address).await,
        None => Err("it has none".into()),
    };
    let dns_answers = match status.dns {
        Some(address) => probe::ask_dns(address).await,
        None => Err("it has none".into()),
    };
    Ok(Ok(NodeFacts { status, socks_answers, dns_answers }))
}

/// What the facts mean. Pure.
fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = match &facts.node {
        Ok(node) => judge_node(node),
        Err(why) => vec![bad("node", why.clone(), None)],
    };
    let dns = facts.node.as_ref().ok().and_then(|node| node.status.dns);
    let resolver = find(&facts.machine);
    findings.push(match resolver.advice(&facts.machine, dns.unwrap_or(DNS)) {
        Advice::Done(file) => good("resolver", format!("{}: {file} sends .ap to the node", resolver.name())),
        Advice::Paste(text) => bad(
            "resolver",
            format!("{}: it does not send .ap to the node. Paste:", resolver.name()),
            Some(text),
        ),
        Advice::Say(text) => bad("resolver", format!("{}. {text}", resolver.name()), None),
    });
    findings.extend(facts.asked.as_ref().map(|asked| match asked {
        Ok(()) => good("names", "the machine's resolver gives the right address for a name in .ap".into()),
        Err(why) => bad("names", format!("the machine's resolver does not know .ap: {why}"), None),
    }));
    findings
}

fn judge_node(node: &NodeFacts) -> Vec<Finding> {
    let status = &node.status;
    let ready = status.paths.ready.len();
    let runs = format!("runs (phantom {}), {ready} paths ready", status.version);
    let mut findings = vec![match &status.obstacle {
        Some(obstacle) if ready == 0 => bad("node", format!("{runs}: {obstacle}"), None),
        _ => good("node", runs),
    }];
    let port = |about, address: Option<SocketAddr>, answers: &Result<(), String>, without: &str| match (
        address, answers,
    ) {
        (Some(address), Ok(())) => good(about, format!("{address} answers")),
        (Some(address), Err(why)) => {
            bad(about, format!("{address} does not answer as it should: {why}. Start the node again"), None)
        }
        (None, _) => bad(about, without.to_owned(), None),
    };
    findings.push(port("proxy", status.socks, &node.socks_answers, "the node has no proxy port"));
    // Only the demonstration keeps nothing.
    let without = if status.state.is_none() {
        format!(
            "the demonstration has no DNS port. A node that joins it can have one: add --dns {DNS} to the line \
             `phantom up ...` that the demonstration printed"
        )
    } else {
        format!(
            "the node has no DNS port. Start it with --dns {DNS}, or write dns = \"{DNS}\" into phantom.toml"
        )
    };
    findings.push(port("dns", status.dns, &node.dns_answers, &without));
    findings
}

fn good(about: &'static str, text: String) -> Finding {
    Finding { about, is_good: true, text, paste: None }
}

fn bad(about: &'static str, text: String, paste: Option<String>) -> Finding {
    Finding { about, is_good: false, text, paste }
}

fn render(findings: &[Finding]) -> String {
    let mut text = String::new();
    for Finding { about, is_good, text: said, paste } in findings {
        text += &format!("{} {about:<9} {said}\n", if *is_good { "ok" } else { "--" });
        if let Some(paste) = paste {
            let lines: String = paste.lines().map(|line| format!("{line}\n")).collect();
            text += &format!("\n{lines}\n");
        }
    }
    if findings.iter().any(|finding| finding.about == "resolver") {
        text += "   note      what DNS answers leads somewhere through the proxy port, and without it where the kernel redirects \
                 connections to the transparent port: see examples/transparent.nft\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        let processes = ["dnsmasq".to_owned()].into();
        Machine { resolv_conf: "nameserver 127.0.0.1\n".into(), processes, ..Machine::default() }
    }

    fn running() -> NodeFacts {
        let status = Status {
            socks: Some("127.0.0.1:9070".parse().unwrap()),
            dns: Some("127.0.0.1:5353".parse().unwrap()),
            ..Status::default()
        };
        NodeFacts { status, socks_answers: Ok(()), dns_answers: Ok(()) }
    }

    fn judged(
        node: Result<NodeFacts, String>,
        asked: Option<Result<(), String>>,
    ) -> Vec<(&'static str, bool)> {
        let findings = judge(&Facts { node, machine: machine(), asked });
        findings.iter().map(|finding| (finding.about, finding.is_good)).collect()
    }

    #[test]
    fn each_part_is_judged_by_itself() {
        assert_eq!(
            judged(Ok(running()), Some(Ok(()))),
            [("node", true), ("proxy", true), ("dns", true), ("resolver", false), ("names", true)]
        );
        assert_eq!(judged(Err("none".into()), None), [("node", false), ("resolver", false)]);
        let mut lonely = running();
        lonely.status.obstacle = Some("Too few nodes.".into());
        lonely.status.dns = None;
        lonely.socks_answers = Err("silence".into());
        assert_eq!(
            judged(Ok(lonely), Some(Err("no such name".into()))),
            [("node", false), ("proxy", false), ("dns", false), ("resolver", false), ("names", false)]
        );
    }

    #[test]
    fn who_has_no_dns_port_is_told_how_to_get_one() {
        let mut node = running();
        node.status.dns = None;
        let said = |node: &NodeFacts| judge_node(node).pop().unwrap().text;
        assert!(said(&node).starts_with("the demonstration has no DNS port"), "{}", said(&node));
        node.status.state = Some("/var/lib/phantom".into());
        assert!(said(&node).contains("Start it with --dns 127.0.0.1:9053"), "{}", said(&node));
    }

    #[test]
    fn what_is_printed_can_be_pasted_as_it_stands() {
        let findings = judge(&Facts { node: Ok(running()), machine: machine(), asked: None });
        let text = render(&findings);
        assert!(text.contains("ok dns       127.0.0.1:5353 answers\n"), "{text}");
        assert!(
            text.contains("-- resolver  dnsmasq: it does not send .ap to the node. Paste:\n\nsudo mkdir"),
            "{text}"
        );
        assert!(text.contains("\nserver=/ap/127.0.0.1#5353\n"), "{text}");
        assert!(text.contains("\nEND\nsudo systemctl restart dnsmasq\n\n"), "{text}");
    }
}
