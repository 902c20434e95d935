use jiff::civil::DateTime;

/// The local time that a template's `strftime_now` reports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Clock {
    /// The machine's clock.
    #[default]
    System,
    /// Always this moment: renderings that can be repeated.
    Fixed(DateTime),
}

impl Clock {
    /// Stands still from now on.
    pub fn stopped() -> Self {
        Self::Fixed(Self::System.now())
    }

    /// Stands still at the moment that [`Clock::moment`] wrote down; `None` where the text is no moment.
    pub fn parse(moment: &str) -> Option<Self> {
        moment.parse().ok().map(Self::Fixed)
    }

    /// The local time now, to be kept with a run.
    pub fn moment(&self) -> String {
        self.now().to_string()
    }

    pub(super) fn now(&self) -> DateTime {
        match self {
            Self::System => jiff::Zoned::now().datetime(),
            Self::Fixed(moment) => *moment,
        }
    }
}
