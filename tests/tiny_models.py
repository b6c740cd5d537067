"""Models of the architectures of transformers and diffusers, a few thousand weights each, drawn at random; with what
prepares their images."""

import diffusers
import torch
import transformers


def depth():
    """Depth Anything."""
    backbone = transformers.Dinov2Config(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=28,
        out_features=["stage1", "stage2", "stage3", "stage4"],
        reshape_hidden_states=False,
    )
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone,
        neck_hidden_sizes=[8] * 4,
        fusion_hidden_size=8,
        head_hidden_size=8,
        reassemble_hidden_size=16,
    )
    processor = transformers.DPTImageProcessorPil(
        size={"height": 28, "width": 28}, ensure_multiple_of=14, keep_aspect_ratio=True
    )
    return transformers.DepthAnythingForDepthEstimation(config), processor


def segment_anything():
    """Segment Anything."""
    config = transformers.SamConfig(
        vision_config={
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 64,
            "patch_size": 16,
            "output_channels": 8,
            "global_attn_indexes": [0],
            "window_size": 2,
            "mlp_dim": 16,
            "num_pos_feats": 4,
        },
        prompt_encoder_config={"hidden_size": 8, "image_size": 64, "patch_size": 16, "mask_input_channels": 4},
        mask_decoder_config={
            "hidden_size": 8,
            "mlp_dim": 16,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 8,
        },
    )
    processor = transformers.SamImageProcessorPil(
        size={"longest_edge": 64}, pad_size={"height": 64, "width": 64}, mask_size={"longest_edge": 16}
    )
    model = transformers.SamModel(config)
    # As its weights are drawn by the library, all masks are empty or full.
    for part, seed, std in ((model, 0, 0.5), (model.mask_decoder, 2, 2.0)):
        torch.manual_seed(seed)
        for weights in part.parameters():
            torch.nn.init.normal_(weights, std=std)
    return model, processor


def segformer():
    """SegFormer with the classes of ADE20K."""
    config = transformers.SegformerConfig(
        num_labels=150,
        depths=[1] * 4,
        hidden_sizes=[8] * 4,
        num_attention_heads=[1] * 4,
        decoder_hidden_size=8,
        sr_ratios=[1] * 4,
    )
    processor = transformers.SegformerImageProcessorPil(size={"height": 32, "width": 32})
    model = transformers.SegformerForSemanticSegmentation(config)
    return model, processor


def mask2former():
    """Mask2Former."""
    backbone = transformers.SwinConfig(
        embed_dim=8,
        depths=[1] * 4,
        num_heads=[1] * 4,
        image_size=32,
        window_size=2,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = transformers.Mask2FormerConfig(
        backbone_config=backbone,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=8,
        dim_feedforward=8,
        encoder_layers=1,
        decoder_layers=1,
        num_attention_heads=2,
        num_queries=5,
        num_labels=7,
    )
    processor = transformers.Mask2FormerImageProcessorPil(size={"shortest_edge": 40, "longest_edge": 90})
    model = transformers.Mask2FormerForUniversalSegmentation(config)
    return model, processor


def detr(named=True):
    """Deformable DETR with as many classes as LVIS, named or numbered."""
    backbone = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8] * 4, depths=[1] * 4, out_features=["stage2", "stage3", "stage4"]
    )
    config = transformers.DeformableDetrConfig(
        backbone_config=backbone,
        use_timm_backbone=False,
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        num_queries=9,
        num_feature_levels=3,
        num_labels=1203,
    )
    if named:
        config.id2label = {i: f"thing {i}" for i in range(1203)}
    processor = transformers.DeformableDetrImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 128})
    model = transformers.DeformableDetrForObjectDetection(config)
    return model, processor


def autoencoder():
    """A convolutional autoencoder with a factor of 4."""
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=4,
        scaling_factor=0.18215,
    )


def pipeline():
    """Two text encoders, a U-Net and an autoencoder as those of SDXL, and a tokenizer of single letters."""
    letters = [chr(code) for code in range(97, 123)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = transformers.CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[])
    tokenizer.model_max_length = 16
    sizes = {"hidden_size": 8, "intermediate_size": 8, "projection_dim": 8, "num_hidden_layers": 2}
    ends = {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1, "pad_token_id": len(words) - 1}
    text = transformers.CLIPTextConfig(
        vocab_size=len(words), max_position_embeddings=16, num_attention_heads=2, **sizes, **ends
    )
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 1),
        projection_class_embeddings_input_dim=6 * 8 + 8,
        cross_attention_dim=16,
    )
    return diffusers.StableDiffusionXLPipeline(
        autoencoder(),
        transformers.CLIPTextModel(text),
        transformers.CLIPTextModelWithProjection(text),
        tokenizer,
        tokenizer,
        unet,
        diffusers.EulerDiscreteScheduler(timestep_spacing="trailing"),
        add_watermarker=False,
    )


def dit(seed):
    """A pipeline of DiT."""
    torch.manual_seed(seed)
    transformer = diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=4,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        sample_size=4,
        num_embeds_ada_norm=1,
        norm_num_groups=4,
    )
    return diffusers.DiTPipeline(transformer, autoencoder(), diffusers.DDPMScheduler())
