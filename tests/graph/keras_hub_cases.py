"""Small configurations of KerasHub's backbones, by the name of the backbone."""

TEXT = {"vocabulary_size": 50, "num_layers": 2, "num_heads": 2, "hidden_dim": 16, "intermediate_dim": 32}
LONG = {**TEXT, "max_sequence_length": 16}
GROUPED = {
    "vocabulary_size": 50, "num_layers": 2, "num_query_heads": 4, "num_key_value_heads": 2, "hidden_dim": 16,
    "intermediate_dim": 32,
}  # fmt: skip
VIT = {"image_shape": (16, 16, 3), "patch_size": (4, 4), "num_layers": 2, "num_heads": 2, "hidden_dim": 16}
CASES = {
    "Albert": {**LONG, "embedding_dim": 8},
    "Bart": LONG,
    "Bert": LONG,
    "Bloom": TEXT,
    "DebertaV3": {**LONG, "bucket_size": 8},
    "DeiT": {**VIT, "intermediate_dim": 32},
    "DenseNet": {"stackwise_num_repeats": [2, 2], "image_shape": (32, 32, 3), "growth_rate": 4},
    "DistilBert": LONG,
    "Electra": {**{k: v for k, v in LONG.items() if k != "vocabulary_size"}, "vocab_size": 50, "embedding_dim": 16},
    "FNet": {k: v for k, v in LONG.items() if k != "num_heads"},
    "Falcon": {**{k: v for k, v in TEXT.items() if k != "num_heads"}, "num_attention_heads": 2},
    "GPT2": LONG,
    "GPTNeoX": LONG,
    "Gemma": {**GROUPED, "head_dim": 8},
    "Llama": GROUPED,
    "MiT": {
        "layerwise_depths": [1, 1], "image_shape": (16, 16, 3), "hidden_dims": [8, 16], "num_layers": 2,
        "layerwise_num_heads": [1, 2], "layerwise_sr_ratios": [2, 1], "max_drop_path_rate": 0.1,
        "layerwise_patch_sizes": [3, 3], "layerwise_strides": [2, 2],
    },
    "Mistral": {**GROUPED, "sliding_window": 8},
    "OPT": LONG,
    "Phi3": GROUPED,
    "Qwen2": GROUPED,
    "Roberta": LONG,
    "SwinTransformer": {
        "image_shape": (32, 32, 3), "patch_size": 4, "embed_dim": 8, "depths": [2, 2], "num_heads": [2, 2],
        "window_size": 4,
    },
    "T5": TEXT,
    "VGG": {"stackwise_num_repeats": [1, 1], "stackwise_num_filters": [8, 8], "image_shape": (16, 16, 3)},
    "ViT": {**VIT, "mlp_dim": 32},
    "Whisper": {**TEXT, "num_mels": 8, "max_encoder_sequence_length": 16, "max_decoder_sequence_length": 16},
    "Xception": {
        "stackwise_conv_filters": [[8, 8], [16, 16]], "stackwise_pooling": [True, False], "image_shape": (32, 32, 3),
    },
    "DINOV2": {
        **VIT, "patch_size": 4, "intermediate_dim": 32, "num_register_tokens": 2, "position_embedding_shape": (16, 16),
    },
    "DINOV3": {**VIT, "patch_size": 4, "intermediate_dim": 32},
    "EdRec": {
        "vocab_size": 50, "num_layers_enc": 2, "num_layers_dec": 2, "hidden_dim": 16, "intermediate_dim": 32,
        "num_heads": 2,
    },
    "EfficientNet": {
        "stackwise_width_coefficients": [1.0] * 2, "stackwise_depth_coefficients": [1.0] * 2,
        "stackwise_kernel_sizes": [3, 3], "stackwise_num_repeats": [2, 2], "stackwise_input_filters": [8, 8],
        "stackwise_output_filters": [8, 16], "stackwise_expansion_ratios": [1, 4],
        "stackwise_squeeze_and_excite_ratios": [0.25] * 2, "stackwise_strides": [1, 2],
        "stackwise_block_types": ["fused", "unfused"], "stackwise_force_input_filters": [0, 0],
        "stackwise_nores_option": [False, False], "input_shape": (32, 32, 3), "num_features": 32,
    },
    "ESM": LONG,
    "Gemma3": {**GROUPED, "head_dim": 8, "image_size": 16, "use_sliding_window_attention": True,
               "sliding_window_size": 4},
    "GptOss": {**GROUPED, "num_experts": 3, "top_k": 2, "sliding_window": 8},
    "HGNetV2": {
        "depths": [1, 1], "embedding_size": 8, "hidden_sizes": [16, 24], "stem_channels": [3, 8, 8],
        "hidden_act": "relu", "use_learnable_affine_block": True,
        "stackwise_stage_filters": [(8, 8, 16, 1, 1, 3), (16, 8, 24, 1, 1, 3)], "apply_downsample": [False, True],
        "use_lightweight_conv_block": [False, True], "image_shape": (32, 32, 3),
    },
    "Llama3": GROUPED,
    "Mixtral": {**GROUPED, "num_experts": 3, "top_k": 2},
    "MobileNet": {
        "stackwise_expansion": [[16], [24, 24]], "stackwise_num_blocks": [1, 2],
        "stackwise_num_filters": [[8], [16, 16]], "stackwise_kernel_size": [[3], [5, 5]],
        "stackwise_num_strides": [[2], [2, 1]], "stackwise_se_ratio": [[None], [0.25, 0.25]],
        "stackwise_activation": [["relu"], ["hard_swish"] * 2], "stackwise_padding": [[1], [2, 2]],
        "output_num_filters": 32, "depthwise_filters": 8, "depthwise_stride": 2, "depthwise_residual": False,
        "last_layer_filter": 24, "squeeze_and_excite": 0.5, "image_shape": (64, 64, 3),
    },
    "Qwen3": {**GROUPED, "head_dim": 8, "sliding_window_size": None},
    "QwenMoe": {
        **GROUPED, "moe_intermediate_dim": 16, "shared_expert_intermediate_dim": 16, "num_experts": 3, "top_k": 2,
    },
    "RoformerV2": {**TEXT, "head_size": 8},
    "SmolLM3": {
        "vocabulary_size": 50, "hidden_dim": 16, "intermediate_dim": 32, "num_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "attention_bias": False, "attention_dropout": 0.0,
        "rope_layer_enabled_list": [True, False], "layer_types": ["full_attention"] * 2, "mlp_bias": False,
        "layer_norm_epsilon": 1e-6, "max_position_embeddings": 32, "rope_theta": 10000.0, "partial_rotary_factor": 1.0,
    },
    "T5Gemma": {
        "vocabulary_size": 50, "sliding_window": 4, "cross_attention_hidden_size": 16,
        **{
            f"{side}_{name}": value
            for side in ("encoder", "decoder")
            for name, value in {
                "hidden_dim": 16, "intermediate_dim": 32, "num_layers": 2, "num_attention_heads": 4,
                "num_key_value_heads": 2, "head_dim": 8, "layer_types": ["sliding_attention", "full_attention"],
            }.items()
        },
    },
    "ViTDet": {
        "hidden_size": 16, "num_layers": 2, "intermediate_dim": 32, "num_heads": 2,
        "global_attention_layer_indices": [1], "image_shape": (32, 32, 3), "patch_size": 4, "num_output_channels": 8,
        "window_size": 2,
    },
    "VideoPrism": {
        "num_frames": 2, "patch_size": 4, "hidden_dim": 16, "intermediate_dim": 32, "num_heads": 2,
        "num_spatial_layers": 1, "num_temporal_layers": 1, "num_auxiliary_layers": 0, "image_shape": (16, 16, 3),
    },
    "XLMRoberta": LONG,
}  # fmt: skip
