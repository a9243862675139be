"""Fake editors in two processes: ``two_processes.py MODEL FOLDER RECORDS PROTOCOL``."""

import sys

import torch
from fake_editors import make_protocol, make_records, make_trainer

from models import LanguageModel

if __name__ == "__main__":
    torch.set_num_threads(1)
    path, folder, count, name = sys.argv[1:]
    language_model = LanguageModel.load(path)
    language_model.name = "tiny-gpt2"
    trainer = make_trainer(devices=2, strategy="ddp")
    protocol = make_protocol(name, language_model, make_records(int(count)), folder)
    trainer.test(protocol, verbose=False)
