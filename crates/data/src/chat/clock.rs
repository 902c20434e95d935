use jiff::civil::DateTime;

/// The local time that a template's `strftime_now` reports.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// The machine's clock.
    #[default]
    System,
    /// Always this moment: renderings that can be repeated.
    Fixed(DateTime),
}

impl Clock {
    pub(super) fn now(&self) -> DateTime {
        match self {
            Self::System => jiff::Zoned::now().datetime(),
            Self::Fixed(moment) => *moment,
        }
    }
}
