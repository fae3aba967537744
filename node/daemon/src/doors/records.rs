//! Records that the user has declared for names: what their parties cannot tell by themselves, for their entries in the network
//! have no room for it. They are for this machine's programs alone.

use std::collections::BTreeMap;

use phantom_resolver::{Data, Wanted};

/// Declared records, by host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Records(BTreeMap<String, Vec<Data>>);

impl Records {
    /// One more for a host, which is written as it will be asked for: in lower case, and with all labels in front.
    pub fn declare(&mut self, host: String, data: Data) {
        self.0.entry(host).or_default().push(data);
    }

    /// What a host was declared to have of this kind.
    pub(super) fn of(&self, host: &str, wanted: Wanted) -> Vec<Data> {
        let declared = self.0.get(host).into_iter().flatten();
        declared.filter(|data| is(data, wanted)).cloned().collect()
    }
}

fn is(data: &Data, wanted: Wanted) -> bool {
    matches!(
        (data, wanted),
        (Data::A(_), Wanted::A)
            | (Data::Aaaa(_), Wanted::Aaaa)
            | (Data::Srv { .. }, Wanted::Srv)
            | (Data::Txt(_), Wanted::Txt)
            | (Data::Https { .. }, Wanted::Https)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_what_was_declared_for_it_and_no_other() {
        let mut records = Records::default();
        let text = |text: &str| Data::Txt(vec![text.to_owned()]);
        records.declare("a.ap".into(), text("one"));
        records.declare("a.ap".into(), text("two"));
        records.declare("b.a.ap".into(), text("three"));
        assert_eq!(records.of("a.ap", Wanted::Txt), [text("one"), text("two")]);
        assert_eq!(records.of("b.a.ap", Wanted::Txt), [text("three")]);
        assert!(records.of("a.ap", Wanted::Srv).is_empty() && records.of("c.ap", Wanted::Txt).is_empty());
    }
}
