//! Text: keys and values, each ended by a zero byte (RFC 7143, 6.1).

/// Bytes of one negotiation, over all its PDUs.
pub(super) const TEXT_BYTES_MAX: usize = 64 << 10;
/// Bytes of a key (RFC 7143, 6.1).
const KEY_BYTES_MAX: usize = 63;

/// Keys and their values, in the order in which they came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Keys(Vec<(String, String)>);

/// The text is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

impl Keys {
    pub(super) fn parse(text: &[u8]) -> Result<Self, Malformed> {
        let mut keys = Vec::new();
        // What follows the last zero, and empty pairs, are padding.
        for pair in text
            .split(|byte| *byte == 0)
            .filter(|pair| !pair.is_empty())
        {
            let pair = std::str::from_utf8(pair).map_err(|_| Malformed)?;
            let (key, value) = pair.split_once('=').ok_or(Malformed)?;
            if key.is_empty() || key.len() > KEY_BYTES_MAX {
                return Err(Malformed);
            }
            keys.push((key.to_owned(), value.to_owned()));
        }
        Ok(Self(keys))
    }

    pub(super) fn get(&self, key: &str) -> Option<&str> {
        let found = self.0.iter().find(|(k, _)| k == key);
        found.map(|(_, value)| &value[..])
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&key[..], &value[..]))
    }

    pub(super) fn push(&mut self, key: &str, value: impl Into<String>) {
        self.0.push((key.to_owned(), value.into()));
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (key, value) in &self.0 {
            bytes.extend(key.bytes());
            bytes.push(b'=');
            bytes.extend(value.bytes());
            bytes.push(0);
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::{Keys, Malformed};

    #[test]
    fn pairs_come_and_go() {
        let text = b"A=1\0B=x=y\0C=\0";
        let keys = Keys::parse(text).expect("sound");
        assert_eq!(
            (keys.get("B"), keys.get("C"), keys.get("D")),
            (Some("x=y"), Some(""), None)
        );
        assert_eq!(keys.bytes(), text);
        assert_eq!(Keys::parse(b"A=1\0\0\0").expect("padded").iter().count(), 1);
        assert_eq!(Keys::parse(b"nothing\0"), Err(Malformed));
        assert_eq!(Keys::parse(b"=1\0"), Err(Malformed));
        assert_eq!(Keys::parse(b"A=\xff\0"), Err(Malformed));
    }
}
