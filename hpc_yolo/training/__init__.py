"""Training: assembling (`build`), schedule (`optimizer`), the averaged model (`ema`) and the loop (`trainer`)."""
