"""What other trainers call the settings of a recipe: nanoGPT, Meta Lingua, transformers, torchtitan, litgpt."""

from collections.abc import Mapping

_BATCH = "train.batch_size: rows a step over all devices, accumulation included"
_MICRO = "train.micro_batch_size: rows at a time on a device; gradients are accumulated over train.batch_size"
_LAST = "optim.schedule.final: the last step's share of the peak"
_STEPS = "train.steps: a run begins by saying how many times that is the text"
_WARMUP = "optim.schedule.warmup: steps, or a share of all of them such as 0.025"
_NAMES: Mapping[str, str] = {
    "optim": "optimizer optim_args optimizer_config",
    "optim.type": "optimizer_name optimizer_type",
    "optim.lr": "learning_rate max_lr peak_lr base_lr peak_learning_rate max_learning_rate",
    "optim.beta1, optim.beta2": "betas adam_betas",
    "optim.beta1": "adam_beta1",
    "optim.beta2": "adam_beta2",
    "optim.eps": "adam_epsilon adam_eps epsilon",
    "optim.weight_decay": "wd adam_weight_decay",
    "optim.clip": (
        "grad_clip max_grad_norm max_norm gradient_clip_val clip_grad grad_clip_norm gradient_clipping clip_grad_norm "
        "gradient_clip_norm max_grad_l2_norm"
    ),
    "optim.schedule": "lr_scheduler scheduler lr_schedule",
    "optim.schedule.type": "lr_scheduler_type lr_decay_style lr_schedule_type",
    _WARMUP: (
        "warmup_steps warmup_iters warmup_ratio num_warmup_steps lr_warmup_steps lr_warmup_iters n_warmup_steps "
        "warmup_fraction lr_warmup_fraction"
    ),
    _LAST: "min_lr lr_min lr_min_ratio min_lr_ratio min_lr_factor min_learning_rate lr_min_factor",
    "optim.schedule.decay": (
        "decay_ratio decay_fraction cooldown cooldown_fraction decay_steps lr_decay_iters num_decay_steps "
        "lr_decay_steps"
    ),
    "train": "training trainer training_args",
    _STEPS: (
        "epochs num_epochs n_epochs num_train_epochs max_epochs max_iters max_steps n_steps num_steps num_iterations "
        "total_steps max_train_steps train_iters num_train_steps max_tokens train_steps"
    ),
    _BATCH: "global_batch_size total_batch_size global_train_batch_size",
    _MICRO: (
        "gradient_accumulation_steps grad_accum_steps grad_acc_steps accumulate_grad_batches gradient_accumulation "
        "grad_accumulation_steps accumulation_steps per_device_train_batch_size local_batch_size device_batch_size "
        "micro_batch per_device_batch_size device_train_microbatch_size"
    ),
    "train.precision": (
        "dtype torch_dtype bf16 fp16 fp32 tf32 mixed_precision mixed_precision_param model_dtype amp amp_dtype "
        "bfloat16 param_dtype data_type"
    ),
    "train.float8": "fp8 enable_fp8_linear float8_recipe_filter",
    "train.compile": "torch_compile compile_model use_compile enable_compile",
    "train.recompute": (
        "gradient_checkpointing activation_checkpointing activation_checkpoint selective_activation_checkpointing "
        "grad_checkpointing recompute_granularity ac"
    ),
    "train.device": "device_type use_cpu no_cuda accelerator",
    "train.max_minutes": "max_time time_limit",
    "train.seq_len_warmup": "sequence_length_warmup seqlen_warmup",
    "train.batch_size_warmup": "batch_size_schedule rampup_batch_size batch_rampup",
    "model.d_model": (
        "n_embd hidden_size dim hidden_dim embed_dim embedding_dim d_embed model_dim emb_dim embedding_size n_embed"
    ),
    "model.n_layers": "n_layer num_hidden_layers num_layers depth num_layer n_blocks num_blocks n_hidden_layers",
    "model.mixer": "attention attn self_attn",
    "model.mixer.n_heads": "n_head num_attention_heads num_heads num_head attention_heads heads",
    "model.mixer.n_kv_heads": "num_key_value_heads n_query_groups num_query_groups num_kv_heads n_kv_head n_head_kv",
    "model.mixer.head_dim": "head_size d_head kv_channels",
    "model.mixer.window": "sliding_window window_size attention_window",
    "model.mixer.softcap": "attn_logit_softcapping attn_softcap",
    "model.mixer.qk_norm": "use_qk_norm qk_layernorm qk_layer_norm",
    "model.mixer.backend": "attn_implementation attn_impl flash attn_type use_flash_attention",
    "model.mixer.rotary": "rope",
    "model.mixer.rotary.theta": "rope_theta rope_base rotary_base rotary_emb_base",
    "model.mixer.rotary.scaling": "rope_scaling rope_parameters",
    "model.ffn": "mlp feed_forward",
    "model.ffn.d_ff": (
        "intermediate_size ffn_dim ffn_hidden_size n_inner mlp_hidden_size ffn_dim_multiplier mlp_ratio multiple_of "
        "ffn_hidden_dim dim_feedforward hidden_mult"
    ),
    "model.ffn.type": "hidden_act activation_function activation act_fn mlp_type mlp_class_name activation_type",
    "model.vocab_size": "padded_vocab_size n_vocab num_embeddings",
    "model.tied_head": (
        "tie_word_embeddings weight_tying tie_embeddings tied_embeddings tie_weights enable_weight_tying "
        "untie_embeddings_and_output_weights"
    ),
    "model.norm": "norm_type norm_position",
    "model.norm_eps": "rms_norm_eps layer_norm_eps layer_norm_epsilon layernorm_epsilon rms_eps",
    "model.logit_softcap": "final_logit_softcapping final_logit_softcap",
    "model.z_loss": "z_loss_weight z_loss_coefficient softmax_auxiliary_loss",
    "init.std": "initializer_range init_std init_method_std",
    "init.base_std": "init_base_std",
    "init.depth_factor": "init_std_factor depth_init",
    "data": "dataset datasets train_dataset",
    "data.seq_len": (
        "block_size context_length max_seq_len max_seq_length seq_length sequence_length max_seqlen n_ctx "
        "max_position_embeddings ctx_len context_size model_max_length max_length n_positions max_sequence_length"
    ),
    "data.train": (
        "dataset_path data_path train_file train_files data_dir root_dir dataset_name train_data training_data"
    ),
    "data.validation": "eval_dataset validation_file val_file val_data eval_data val_dataset",
    "data.validation_fraction": (
        "val_split eval_split validation_split val_fraction validation_split_percentage test_size"
    ),
    "data.text_field": "text_column content_key dataset_text_field text_key text_column_name",
    "tokenizer.path": "tokenizer_path tokenizer_name tokenizer_name_or_path hf_assets_path",
    "seed": "random_seed data_seed torch_seed",
    "name": "run_name experiment_name exp_name wandb_run_name job_name",
    "runs_dir": "output_dir out_dir dump_dir dump_folder save_dir checkpoint_dir log_dir",
    "watch": "logging eval evaluation metrics",
    "watch.log_every": "log_interval logging_steps log_freq log_every_n_steps logging_interval",
    "watch.validate_every": (
        "eval_interval eval_steps eval_every val_interval eval_freq val_check_interval validation_freq "
        "eval_iters_interval"
    ),
    "watch.validation_rows": "eval_iters eval_batches limit_val_batches max_eval_samples",
    "watch.sample_every": "generate_every sample_interval sample_steps",
    "watch.sample_tokens": "max_new_tokens",
    "checkpoint": "checkpointing ckpt save",
    "checkpoint.every": (
        "save_steps save_interval checkpoint_interval save_every checkpoint_every ckpt_interval ckpt_freq save_freq"
    ),
    "checkpoint.keep_last": "save_total_limit keep_latest_k save_top_k keep_last_n",
    "checkpoint.asynchronous": "async_mode async_save enable_async_checkpoint",
    "trackers": "report_to logger loggers",
    "trackers.wandb": "wandb_project wandb_log use_wandb wandb_project_name enable_wandb",
    "trackers.tensorboard": "enable_tensorboard use_tensorboard tensorboard_dir",
    "parallel": "parallelism distributed fsdp fsdp_config",
    "parallel.tensor": "tensor_parallel_degree tp_size tp tensor_parallel_size tensor_model_parallel_size tp_degree",
    "parallel.shard": "data_parallel_shard_degree dp_shard fsdp_degree fsdp_size",
    "parallel.replicate": "data_parallel_replicate_degree dp_replicate ddp_degree",
    "parallel.context": "context_parallel_degree cp_size cp context_parallel_size cp_degree",
    "parallel.offload": "cpu_offload enable_cpu_offload",
    "parallel.reshard": "fsdp_reshard_after_forward reshard_after_forward",
    "parallel.reduce": "mixed_precision_reduce reduce_dtype",
}
FOREIGN = {name: ours for ours, names in _NAMES.items() for name in names.split()}
"""Name elsewhere, in lower case -> the field or fields here, and after a colon what to know of them."""


def fields_of(ours: str) -> list[str]:
    """The fields that an entry of the table names."""
    return ours.partition(":")[0].split(", ")
