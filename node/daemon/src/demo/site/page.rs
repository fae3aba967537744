//! The front page: one self-contained document.

/// What the page tells about the network it stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Relays on each side of a connection.
    pub hops: usize,
    /// Nodes that the demonstration started.
    pub nodes: usize,
}

/// The page may run its own script and talk to its own site, nothing else.
pub const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
                          base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const TEMPLATE: &str = include_str!("page.html");

/// The page with the facts filled in.
pub fn render(facts: &Facts) -> String {
    TEMPLATE
        .replace("{{way}}", &way(facts.hops))
        .replace("{{sentence}}", &sentence(facts.hops))
        .replace("{{nodes}}", &facts.nodes.to_string())
}

fn sentence(hops: usize) -> String {
    match hops {
        0 => "This page came over one encrypted link. With 0 relays per side nobody is hidden: that mode is for services \
              that are public anyway."
            .to_owned(),
        hops => format!(
            "This page came to you through {hops} + {hops} relays. {hops} were chosen by your node, {hops} by the site's. \
             No relay knows both ends; this site does not know where you are, and you do not know where it is."
        ),
    }
}

/// One dot for each that the page passed.
fn way(hops: usize) -> String {
    let dot = |class: &str, label: &str| format!("<li class=\"{class}\"><i></i><span>{label}</span></li>");
    let mut dots = vec![dot("end", "you")];
    dots.extend((1..=hops).map(|place| dot("yours", &place.to_string())));
    dots.extend((1..=hops).rev().map(|place| dot("its", &place.to_string())));
    dots.push(dot("end", "this site"));
    dots.concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_shows_every_relay() {
        for hops in 0..=8 {
            let page = render(&Facts { hops, nodes: 12 });
            assert_eq!(page.matches("<i></i>").count(), 2 * hops + 2);
            assert!(!page.contains("{{"), "a gap in the page");
        }
    }
}
