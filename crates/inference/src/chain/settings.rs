//! The settings that every method of chains has.

/// Makes the settings struct of a method: its own keys, then those that all chains have, with defaults; `fn common(&self)`,
/// which gives the latter; and the method itself, from its `INFO` and its `fn plan(&self)`. The keys stand side by side in a
/// recipe, so that a mistake in any is reported with its line. A method that draws from another law than the recipe's says
/// so by `sampling = Self::NAME`, a function of the settings and the recipe's sampling.
macro_rules! chain_settings {
    (
        $(#[$about:meta])*
        pub struct $name:ident {
            $( $(#[$doc:meta])* pub $field:ident: $type:ty = $default:expr, )*
        }
        defaults { steps = $steps:expr, answer = $answer:expr }
        $( sampling = $sampling:expr; )?
    ) => {
        $(#[$about])*
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name {
            $( $(#[$doc])* pub $field: $type, )*
            /// Moves of each chain after its first draw.
            #[schemars(range(min = 1))]
            pub steps: usize,
            /// Chains for each prompt; they share batches, and their disagreement shows whether they have mixed.
            #[schemars(range(min = 1))]
            pub chains: usize,
            /// States left out at the start of each chain; at most `steps`.
            pub burn_in: usize,
            /// How the states become one answer.
            pub answer: $crate::chain::AnswerBy,
            /// Numbers of steps after which the answer so far is recorded, ascending, from `burn_in` to `steps`: one
            /// run gives the whole curve. The end is always recorded.
            pub at: Vec<usize>,
            /// Ends the chains of a prompt as soon as no votes that are still to come can change the winner: the same
            /// answer at less cost.
            pub stop_when_decided: bool,
            /// Records every move: cut, proposal, acceptance. A run of the `inference` binary writes them to
            /// `moves.jsonl`, a line each.
            pub record_moves: bool,
        }

        impl Default for $name {
            fn default() -> Self {
                Self {
                    $( $field: $default, )*
                    steps: $steps,
                    chains: 1,
                    burn_in: 0,
                    answer: $answer,
                    at: Vec::new(),
                    stop_when_decided: false,
                    record_moves: false,
                }
            }
        }

        impl $name {
            fn common(&self) -> $crate::chain::Common {
                $crate::chain::Common {
                    steps: self.steps,
                    chains: self.chains,
                    burn_in: self.burn_in,
                    answer: self.answer,
                    at: self.at.clone(),
                    stop_when_decided: self.stop_when_decided,
                    record_moves: self.record_moves,
                }
            }
        }

        impl $crate::Method for $name {
            fn info(&self) -> &'static $crate::Info {
                &INFO
            }

            fn problems(&self) -> Vec<$crate::Problem> {
                self.plan().problems()
            }

            fn samples(&self) -> usize {
                self.plan().samples()
            }

            fn counts(&self) -> Vec<usize> {
                self.plan().counts()
            }

            fn needs(&self) -> Vec<$crate::Need> {
                self.plan().needs()
            }

            $(
                fn sampling(&self, sampling: generate::Sampling) -> generate::Sampling {
                    $sampling(self, sampling)
                }
            )?

            fn machine(
                &self,
                tools: &$crate::Tools,
            ) -> Result<Box<dyn generate::Scheduled>, $crate::Error> {
                $crate::method::check(self, tools)?;
                Ok(Box::new($crate::chain::Chains::new(self.plan(), tools)))
            }
        }
    };
}

pub(crate) use chain_settings;
