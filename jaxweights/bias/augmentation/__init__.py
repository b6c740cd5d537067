"""How training images are changed at random: crops, RandAugment, mixing. Everything acts on device, image by image from
each one's own key."""
