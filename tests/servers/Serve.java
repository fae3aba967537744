import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.DatagramPacket;
import java.net.DatagramSocket;
import java.net.InetSocketAddress;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.concurrent.Executors;

/** Serves the files of a folder at a port, and says back what it is sent: at /echo, and by UDP. */
class Serve {
    public static void main(String[] arguments) throws Exception {
        var folder = Path.of(arguments[1]);
        var server = HttpServer.create(new InetSocketAddress(Integer.parseInt(arguments[0])), 0);
        server.setExecutor(Executors.newCachedThreadPool());
        server.createContext("/echo", asked -> answer(asked, 200, asked.getRequestBody().readAllBytes()));
        server.createContext("/", asked -> {
            var file = folder.resolve(asked.getRequestURI().getPath().substring(1));
            if (Files.isRegularFile(file)) {
                answer(asked, 200, Files.readAllBytes(file));
            } else {
                answer(asked, 404, new byte[0]);
            }
        });
        server.start();
        var datagrams = new DatagramSocket(Integer.parseInt(arguments[0]));
        var datagram = new DatagramPacket(new byte[65536], 65536);
        while (true) {
            datagram.setLength(65536);
            datagrams.receive(datagram);
            datagrams.send(datagram);
        }
    }

    private static void answer(HttpExchange asked, int code, byte[] body) throws IOException {
        try (asked) {
            asked.sendResponseHeaders(code, body.length == 0 ? -1 : body.length);
            asked.getResponseBody().write(body);
        }
    }
}
