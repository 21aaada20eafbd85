//! `pith chat`: turns in, replies out, in the form of the model's own chat template.

use std::{
    io::{self, BufRead, IsTerminal, Write},
    path::PathBuf,
    time::{Duration, Instant},
};

use pith::{Error, Model, Result};
use pith_jobs::chat::{ChatTemplate, Message};
use rustyline::{DefaultEditor, error::ReadlineError};

use crate::{
    End, catch_interrupts, clear_interrupt, stdout_error,
    writing::{OnFull, Place, Sampling, Why, Writer, require_tokenizer, timings_text},
};

/// Talk with a model that carries a chat template
///
/// At a terminal: the arrow keys edit and bring back earlier turns, Ctrl-C ends a reply, Ctrl-D
/// ends the chat, /clear starts afresh. Otherwise each line of standard input is one turn.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  pith chat model.gguf --system \"You answer in one sentence.\"
  pith chat model.gguf --lora style.gguf
  echo \"What is a fjord?\" | pith chat model.gguf --temp 0")]
pub struct Args {
    /// The model, a GGUF file
    model: PathBuf,
    /// Text of a system turn before the first user turn
    #[arg(short, long, value_name = "TEXT")]
    system: Option<String>,
    /// Print timings on standard error at the end
    #[arg(long)]
    timings: bool,
    #[command(flatten)]
    sampling: Sampling,
    #[command(flatten)]
    place: Place,
}

/// Where user turns come from.
enum Turns {
    Terminal(Box<DefaultEditor>),
    Lines(io::StdinLock<'static>),
}

impl Turns {
    fn open() -> Result<Turns> {
        if io::stdin().is_terminal() {
            DefaultEditor::new()
                .map(|editor| Turns::Terminal(Box::new(editor)))
                .map_err(terminal_error)
        } else {
            Ok(Turns::Lines(io::stdin().lock()))
        }
    }

    /// The next turn, without its line end; `None` at the end.
    fn next(&mut self) -> Result<Option<String>> {
        match self {
            Turns::Terminal(editor) => match editor.readline("> ") {
                Ok(line) => {
                    editor.add_history_entry(&line).map_err(terminal_error)?;
                    Ok(Some(line))
                }
                Err(ReadlineError::Eof | ReadlineError::Interrupted) => Ok(None),
                Err(error) => Err(terminal_error(error)),
            },
            Turns::Lines(stdin) => {
                let mut line = String::new();
                let n = stdin.read_line(&mut line).map_err(Error::io("read", "standard input"))?;
                Ok((n > 0).then(|| line.trim_end_matches(['\r', '\n']).to_owned()))
            }
        }
    }

    fn interactive(&self) -> bool {
        matches!(self, Turns::Terminal(_))
    }
}

fn terminal_error(error: ReadlineError) -> Error {
    Error::io("read", "the terminal")(io::Error::other(error))
}

/// Runs the command.
pub fn run(args: &Args) -> Result<End> {
    catch_interrupts()?;
    let began = Instant::now();
    let model = Model::open(&args.model)?;
    model.require_language_model()?;
    require_tokenizer(&model)?;
    let template = template(&model, args)?;
    let session = args.place.session(&model)?;
    let (sampler, _) = args.sampling.sampler();
    let load = began.elapsed();
    let chat = Chat {
        args,
        model: &model,
        template,
        writer: Writer::new(&model, session, sampler, OnFull::Error),
        messages: Vec::new(),
    };
    chat.talk(Turns::open()?, load)
}

fn template(model: &Model, args: &Args) -> Result<ChatTemplate> {
    ChatTemplate::of(model, None)?.ok_or_else(|| {
        Error::Unsupported(format!(
            "{} carries no chat template, so it was not made for conversations; \
             `pith run` continues a text",
            args.model.display()
        ))
    })
}

struct Chat<'a> {
    args: &'a Args,
    model: &'a Model,
    template: ChatTemplate,
    writer: Writer<'a>,
    messages: Vec<Message>,
}

impl Chat<'_> {
    fn talk(mut self, mut turns: Turns, load: Duration) -> Result<End> {
        self.clear();
        let mut end = End::Done;
        while let Some(line) = turns.next()? {
            match line.trim() {
                "" => continue,
                "/clear" => {
                    self.clear();
                    continue;
                }
                _ => {}
            }
            match self.turn(line) {
                Ok(Why::Interrupted) if turns.interactive() => clear_interrupt(),
                Ok(Why::Interrupted) => {
                    end = End::Interrupted;
                    break;
                }
                Ok(_) => {}
                Err(error @ Error::ContextFull { .. }) if turns.interactive() => {
                    eprintln!("pith: {error}; or start afresh with /clear");
                }
                Err(error) => return Err(error),
            }
        }
        if self.args.timings {
            eprintln!("{}", timings_text(&self.writer, load));
        }
        Ok(end)
    }

    /// Forgets all turns but the system's.
    fn clear(&mut self) {
        self.messages.clear();
        let system = self.args.system.iter();
        self.messages.extend(system.map(|text| Message { role: "system", content: text.clone() }));
    }

    /// One user turn and its reply. A turn that fails, or is interrupted before the first word, is
    /// not remembered.
    fn turn(&mut self, line: String) -> Result<Why> {
        let before = self.messages.len();
        self.messages.push(Message { role: "user", content: line });
        let replied = self.reply();
        match &replied {
            Err(_) => self.messages.truncate(before),
            Ok((text, Why::Interrupted)) if text.is_empty() => self.messages.truncate(before),
            Ok((text, _)) => {
                self.messages.push(Message { role: "assistant", content: text.trim().to_owned() });
            }
        }
        replied.map(|(_, why)| why)
    }

    fn reply(&mut self) -> Result<(String, Why)> {
        let prompt = self.template.prompt(&self.messages);
        let prompt = prompt.map_err(|error| Error::Invalid(error.message))?;
        let ids = prompt.encode(self.model.tokenizer());
        let mut reply = String::new();
        if !self.writer.read(&ids)? {
            return Ok((reply, Why::Interrupted));
        }
        let mut out = io::stdout().lock();
        let sampling = &self.args.sampling;
        let (_, why) = self.writer.write(sampling.n, &sampling.stop, |piece| {
            reply.push_str(piece);
            out.write_all(piece.as_bytes()).and_then(|()| out.flush()).map_err(stdout_error)
        })?;
        writeln!(out).map_err(stdout_error)?;
        Ok((reply, why))
    }
}
