//! Ports that `/etc/services` gives names to.

use super::{declared, lines};

/// The port of a service of this protocol.
pub(super) fn port(service: &str, protocol: &str) -> Option<u16> {
    let file = declared(c"/etc/services");
    port_in(&String::from_utf8_lossy(&file), service, protocol)
}

/// The name of a port of this protocol.
pub(super) fn name(port: u16, protocol: &str) -> Option<String> {
    let file = declared(c"/etc/services");
    name_in(&String::from_utf8_lossy(&file), port, protocol)
}

fn port_in(file: &str, service: &str, protocol: &str) -> Option<u16> {
    lines(file).find_map(|mut fields| {
        let name = fields.next()?;
        let port = port_of(fields.next()?, protocol)?;
        (name == service || fields.any(|alias| alias == service)).then_some(port)
    })
}

fn name_in(file: &str, port: u16, protocol: &str) -> Option<String> {
    lines(file).find_map(|mut fields| {
        let name = fields.next()?;
        (port_of(fields.next()?, protocol)? == port).then(|| name.to_owned())
    })
}

/// Of `80/tcp`.
fn port_of(field: &str, protocol: &str) -> Option<u16> {
    let (port, of) = field.split_once('/')?;
    (of == protocol).then(|| port.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str =
        "# services\nhttp\t80/tcp\twww # web\ndomain 53/tcp\ndomain 53/udp\nbroken\nbroken x/tcp\n";

    #[test]
    fn a_service_is_found_by_its_names_and_its_port() {
        assert_eq!(port_in(FILE, "http", "tcp"), Some(80));
        assert_eq!(port_in(FILE, "www", "tcp"), Some(80));
        assert_eq!(port_in(FILE, "domain", "udp"), Some(53));
        assert_eq!(name_in(FILE, 53, "udp").as_deref(), Some("domain"));
    }

    #[test]
    fn a_service_of_another_protocol_or_none_is_not_found() {
        for (service, protocol) in [("http", "udp"), ("broken", "tcp"), ("web", "tcp"), ("", "tcp")] {
            assert_eq!(port_in(FILE, service, protocol), None, "{service}");
        }
        assert_eq!(name_in(FILE, 80, "udp"), None);
    }
}
