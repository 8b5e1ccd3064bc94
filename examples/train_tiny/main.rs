use anyhow::Result;
use uno_core::image::Pixels;
use uno_models::tiny::world::*;

fn main() -> Result<()> {
    let side = 128;
    let (cols, rows) = (8, 6);
    let mut sheet = vec![255u8; cols * rows * side * side * 3];
    let mut put = |i: usize, p: &Pixels| {
        let (cx, cy) = (i % cols * side, i / cols * side);
        for y in 0..side {
            let at = ((cy + y) * cols * side + cx) * 3;
            sheet[at..at + side * 3].copy_from_slice(&p.rgb[y * side * 3..(y + 1) * side * 3]);
        }
    };
    let start = std::time::Instant::now();
    for i in 0..cols * rows {
        let mut draw = Draw::new(i as u64);
        if i < 8 {
            let subject = Subject { kind: Kind::ALL[i], look: Look::draw(&mut draw, false) };
            put(i, &ReferenceView { subject, seed: i as u64 }.render(side));
        } else {
            let mut c = Composition::draw_any(&mut draw);
            if i < 16 {
                c.scene = Scene::ALL[i % 6];
                c.subjects.truncate(1);
                c.subjects[0].kind = Kind::ALL[i - 8];
            }
            println!("{}", caption::of_picture(&c, caption::Detail::Looks, &mut draw));
            put(i, &c.render(side));
        }
    }
    println!("{:?} per picture", start.elapsed() / (cols * rows) as u32);
    image::save_buffer(
        "target/sheet.png",
        &sheet,
        (cols * side) as u32,
        (rows * side) as u32,
        image::ColorType::Rgb8,
    )?;
    Ok(())
}
